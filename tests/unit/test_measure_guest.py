"""How guests are started, and where clones are found."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from appliance.errors import InvalidInput, NotReady
from appliance.measure import guest, qemu
from appliance.measure.facts import host, kernel, processor, system
from appliance.measure.reach import Access, all_reachable, everywhere
from appliance.run import Runner
from appliance.schema import CloneView


def test_addresses_of_clones() -> None:
    assert guest.NbdTarget.parse("nbd://192.0.2.1:10810/web-1") == guest.NbdTarget("web-1", "192.0.2.1", 10810)
    assert guest.NbdTarget.parse("nbd://box/web-1") == guest.NbdTarget("web-1", "box", 10809)
    assert guest.NbdTarget.parse("nbd://[2001:db8::1]:7/a").host == "2001:db8::1"
    found = guest.NbdTarget.parse("nbd+unix:///web-1?socket=/run/hatchery/nbd/local/nbd.sock")
    assert found == guest.NbdTarget("web-1", socket="/run/hatchery/nbd/local/nbd.sock")
    for uri in ("nbd://192.0.2.1:10810/web-1", "nbd://[2001:db8::1]:7/a", "nbd+unix:///a%20b?socket=/run/x%26y"):
        assert guest.NbdTarget.parse(guest.NbdTarget.parse(uri).uri) == guest.NbdTarget.parse(uri)


@pytest.mark.parametrize("uri", ["", "web-1", "http://box/web-1", "nbd+unix:///web-1", "nbds:///web-1"])
def test_what_is_no_address(uri: str) -> None:
    with pytest.raises(InvalidInput, match="not an NBD address"):
        guest.NbdTarget.parse(uri)


def test_a_guest_never_uses_the_hosts_page_cache_and_outlives_a_restarted_server() -> None:
    words = guest.arguments(
        guest.NbdTarget("web-1", "192.0.2.1", 7),
        guest.Hardware(memory_mib=512, cpus=1),
        qemu.Accelerator("kvm", "host"),
        qemu.Firmware(Path("/code"), Path("/a,b")),
    )
    disk = words[words.index("-blockdev") + 1]
    assert disk.startswith("driver=nbd,")
    assert {"cache.direct=on", "reconnect-delay=600", "discard=unmap", "server.port=7", "export=web-1"} <= set(
        disk.split(",")
    )
    assert "if=pflash,format=raw,file=/a,,b" in words
    assert any("werror=enospc" in word for word in words)


def cpuinfo(folder: Path, flags: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu {flags} sse2\n")
    return file


def test_kvm_needs_both_the_device_and_the_flag(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    assert qemu.accelerator(device, cpuinfo(tmp_path, "vmx")).emulated
    device.touch()
    assert qemu.accelerator(device, cpuinfo(tmp_path, "vmx")).words == ["-accel", "kvm", "-cpu", "host"]
    assert not qemu.accelerator(device, cpuinfo(tmp_path, "svm")).emulated
    assert qemu.accelerator(device, cpuinfo(tmp_path, "sse")).accel == qemu.TCG


def test_the_firmwares_variables_are_the_machines_own_and_stay(tmp_path: Path) -> None:
    code, template = tmp_path / "CODE.fd", tmp_path / "VARS.fd"
    code.write_bytes(b"code")
    template.write_bytes(b"fresh")
    folder = tmp_path / "machine"
    folder.mkdir()
    choices = [("/nonexistent/CODE.fd", "/nonexistent/VARS.fd"), (str(code), str(template))]
    found = qemu.firmware(folder, choices)
    assert found.code == code
    assert found.variables.read_bytes() == b"fresh"
    found.variables.write_bytes(b"boot entries")
    assert qemu.firmware(folder, choices).variables.read_bytes() == b"boot entries"
    with pytest.raises(NotReady, match="no UEFI firmware"):
        qemu.firmware(folder, choices[:1])


def test_clones_of_one_client_are_found_behind_one_address() -> None:
    clones = [cast(CloneView, SimpleNamespace(name=name, uri=f"nbd://0.0.0.0:10809/{name}")) for name in ("a-1", "a-2")]
    with all_reachable(clones, Access(), "root@box", Runner()) as found:
        assert found == (guest.NbdTarget("a-1", "box", 10809), guest.NbdTarget("a-2", "box", 10809))
    with all_reachable(clones, Access(nbd="127.0.0.1:4000"), "root@box", Runner()) as found:
        assert [target.uri for target in found] == ["nbd://127.0.0.1:4000/a-1", "nbd://127.0.0.1:4000/a-2"]


def test_addresses_that_mean_all_addresses() -> None:
    assert everywhere("0.0.0.0")  # noqa: S104 - it is asked about, not listened on
    assert everywhere("::")
    assert not everywhere("192.0.2.1")
    assert not everywhere("box")


def test_facts_are_read_from_the_systems_own_files(tmp_path: Path) -> None:
    assert system('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n') == "Debian GNU/Linux 13 (trixie)"
    assert system("") == "unknown system"
    assert processor(cpuinfo(tmp_path, "").read_text()) == "Some CPU @ 2 GHz"
    assert processor("") == "unknown processor"


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.128-vm-v17", "6.1.128"),
        ("6.12.117+deb13-amd64", "6.12.117"),
        ("6.12.0", "6.12.0"),
        ("6.8-rc3", "6.8"),
        ("mine", "unknown"),
    ],
)
def test_a_kernel_is_its_version_numbers_alone(monkeypatch: pytest.MonkeyPatch, release: str, version: str) -> None:
    assert kernel(release) == version
    monkeypatch.setattr("platform.release", lambda: release)
    assert host().endswith(f" GiB, kernel {version}")
