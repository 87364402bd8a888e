"""The services have few rights, and what they are for still works with them, or is done by a unit that has others.

Clones, recordings and prefetches are the other stories'. Runs after test_life.py, whose first tests need an appliance
that was not deployed yet.
"""

import hashlib
import json
import lzma
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from appliance.client import Client
from appliance.errors import BadImage, NotFound
from appliance.model import CloneKind, ImageFormat
from appliance.schema import ClientSpec, CloneCreate, SeedSpec, TemplateCreate, UrlSource
from appliance.unpack import stated
from appliance.wait import until
from bench.vm import LOOPBACK
from tests.appliance.site import ADDRESS, CLIENT, DISKS, NBD_PORT, Play, Site

MIB = 1 << 20
GATEWAY = "10.0.2.2"
"""Where the appliance finds this machine's loopback (QEMU: docs/system/devices/net.rst)."""

IMAGE = random.Random(5).randbytes(3 * MIB)
PACKED = lzma.compress(IMAGE, preset=0)
SYS_ADMIN, DAC_OVERRIDE = 1 << 21, 1 << 1
"""Bits of /proc/PID/status (capability.h)."""


@pytest.fixture(autouse=True)
def deployed_site(deployed: Play) -> None:
    if deployed.failed:
        pytest.fail(deployed.said)


class Images(BaseHTTPRequestHandler):
    """Answers with an image, half of one, or nothing."""

    def do_GET(self) -> None:
        if self.path == "/missing.raw":
            self.send_error(404)
            return
        image = PACKED if self.path.endswith(".xz") else IMAGE
        self.send_response(200)
        self.send_header("Content-Length", str(len(image)))
        self.end_headers()
        self.wfile.write(IMAGE[: len(IMAGE) // 2] if self.path == "/half.raw" else image)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Nobody reads it."""


@contextmanager
def web() -> Iterator[str]:
    """A web server on this machine, as the appliance finds it."""
    with ThreadingHTTPServer((LOOPBACK, 0), Images) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{GATEWAY}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def rights(site: Site, unit: str) -> dict[str, int]:
    """What the kernel says of a unit's main process: capabilities that it has and may ever have, and its filter."""
    pid = site.vm.ssh(["systemctl", "show", "--property=MainPID", "--value", unit]).stdout.strip()
    lines = site.vm.ssh(["cat", f"/proc/{pid}/status"]).stdout.splitlines()
    said = dict(line.split(":\t") for line in lines if ":\t" in line)
    return {key: int(said[key], 16) for key in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}


def test_a_service_has_no_right_that_its_unit_does_not_name(site: Site) -> None:
    few = SYS_ADMIN | DAC_OVERRIDE
    assert rights(site, "hatcheryd") == {"CapEff": few, "CapBnd": few, "NoNewPrivs": 1, "Seccomp": 2}
    assert rights(site, f"hatchery-nbd@{CLIENT}") == {"CapEff": 0, "CapBnd": 0, "NoNewPrivs": 1, "Seccomp": 2}


def test_the_group_may_use_the_local_clients_socket_and_no_other(site: Site) -> None:
    folder = "/run/hatchery/nbd/local"
    words = ["stat", "--format=%G %a", f"{folder}/nbd.sock", f"{folder}/qmp.sock"]
    # The daemon's control socket is not theirs.
    assert site.vm.ssh(words).stdout.splitlines() == ["hatchery 770", "hatchery 750"]


def user_of(site: Site, client: str) -> int:
    """The user that a client's storage daemon runs as."""
    words = ["ps", "-o", "uid=", "-p", main_pid(site, f"hatchery-nbd@{client}")]
    return int(site.vm.ssh(words).stdout)


def main_pid(site: Site, unit: str) -> str:
    return site.vm.ssh(["systemctl", "show", "--property=MainPID", "--value", unit]).stdout.strip()


def test_a_storage_daemon_may_open_its_own_clones_and_no_others(site: Site) -> None:
    with site.api() as api:
        template = api.templates()[0].ref
        devices = {}
        for client in (CLIENT, "local"):
            name = f"of-{client}"
            (made,) = api.create_clones(CloneCreate(name=name, template=template, client=client, learn=False))
            devices[client] = made.device
        mine, other = user_of(site, CLIENT), user_of(site, "local")
        assert mine != other
        # What udev does to a device of its own accord leaves that alone.
        site.vm.ssh(["udevadm", "trigger", "--settle", "--action=change", devices[CLIENT]], timeout=300)
        for user, device, may in (
            (mine, devices[CLIENT], True),
            (mine, devices["local"], False),
            (mine, "/dev/mapper/hatchery-pool-durable", False),
            (other, devices["local"], True),
            (other, devices[CLIENT], False),
        ):
            words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "head", "--bytes=1", device]
            done = site.vm.ssh(words, check=False)
            assert (done.returncode == 0, "Permission denied" in done.stderr) == (may, not may), (user, device)
        for client in devices:
            api.remove_clone(f"of-{client}", force=True)


def test_who_changed_what_is_in_the_journal(site: Site) -> None:
    with site.api() as api:
        api.put_client("audited", ClientSpec(transport="unix"))
        api.remove_client("audited")
        with pytest.raises(NotFound):
            api.attach("none", "local")
    words = ["journalctl", "--quiet", "--output=json", "--lines=100", "--identifier=hatchery-audit"]
    lines = [json.loads(line) for line in site.vm.ssh(words).stdout.splitlines()]
    told = [(line.get("HATCHERY_METHOD"), line.get("HATCHERY_PATH"), line.get("HATCHERY_RESULT")) for line in lines]
    for wanted in (
        ("PUT", "/v1/clients/audited", "done"),
        ("DELETE", "/v1/clients/audited", "done"),
        ("PUT", "/v1/clones/none/attachment", "refused"),
    ):
        assert wanted in told
        line = lines[told.index(wanted)]
        assert (line["HATCHERY_USER"], line["_SYSTEMD_UNIT"]) == ("root", "hatcheryd.service")


KILL_AND_CONNECT = """
import os, select, signal, socket, sys
pid, address, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
daemon = os.pidfd_open(pid)
os.kill(pid, signal.SIGKILL)
ended, _, _ = select.select([daemon], [], [], 60)
assert ended, f"process {pid} did not end"
with socket.create_connection((address, port), timeout=60) as guest:
    print(guest.recv(8).decode())
"""


def test_who_connects_while_a_storage_daemon_restarts_waits(site: Site) -> None:
    unit = f"hatchery-nbd@{CLIENT}"
    pid = main_pid(site, unit)
    words = ["python3", "-c", KILL_AND_CONNECT, pid, ADDRESS, str(NBD_PORT)]
    assert site.vm.ssh(words, timeout=120).stdout.strip() == "NBDMAGIC"
    assert main_pid(site, unit) != pid
    kept = ["systemctl", "show", "--property=NFileDescriptorStore", "--value", unit]
    assert site.vm.ssh(kept).stdout.strip() == "1"


@pytest.mark.heavy
def test_a_storage_daemon_sees_its_own_key_and_folder_alone(site: Site) -> None:
    with site.api() as api:
        api.put_client("hv1", ClientSpec(transport="tcp", address="127.0.0.1", port=10899))
        try:
            site.vm.ssh(["hatchery", "client", "certificate", "hv1", "/run/hv1"])
            where = "driver=nbd,host=127.0.0.1,port=10899,export=none,tls-creds=t"
            for folder, words in (("/run/hv1", "not present"), ("/run/hv1/none", "TLS")):
                site.vm.ssh(["sh", "-c", 'mkdir -p "$0" && cp /run/hv1/ca-cert.pem "$0" 2>/dev/null; true', folder])
                creds = f"tls-creds-x509,id=t,endpoint=client,dir={folder}"
                asked = ["qemu-img", "info", "--object", creds, "--image-opts", where]
                assert words in site.vm.ssh(asked, check=False).stderr
            log = site.vm.ssh(["journalctl", "--no-pager", "--quiet", "--output=cat", "--unit=hatchery-nbd@hv1"]).stdout
            assert "No certificate was found" in log
            pid = site.vm.ssh(["systemctl", "show", "--property=MainPID", "--value", "hatchery-nbd@hv1"]).stdout.strip()
            for path, seen in (
                ("hatchery", "nbd"),
                ("hatchery/nbd", "hv1"),
                ("credentials", "hatchery-nbd@hv1.service"),
            ):
                assert site.vm.ssh(["ls", f"/proc/{pid}/root/run/{path}"]).stdout.split() == [seen]
        finally:
            api.remove_client("hv1")
    assert site.failed_units() == ""


def add(api: Client, name: str, url: str) -> None:
    wanted = TemplateCreate(name=name, format=ImageFormat.RAW, source=UrlSource(url=url, compression=stated(url)))
    api.finish(api.import_template(wanted), deadline=300)


def test_an_image_is_fetched_from_a_url_whole_or_not_at_all(site: Site) -> None:
    with web() as url, site.api() as api:
        before = {view.ref for view in api.templates()}
        add(api, "fetched", f"{url}/whole.raw")
        assert api.template("fetched").sha256 == hashlib.sha256(IMAGE).hexdigest()
        api.remove_template("fetched")
        add(api, "packed", f"{url}/whole.raw.xz")
        packed = api.template("packed")
        assert (packed.size, packed.sha256) == (len(IMAGE), hashlib.sha256(PACKED).hexdigest())
        api.remove_template("packed")
        with pytest.raises(BadImage, match="cannot be unpacked"):
            add(api, "odd", f"{url}/whole.raw.gz")
        with pytest.raises(BadImage, match="broke off"):
            add(api, "half", f"{url}/half.raw")
        with pytest.raises(NotFound, match=r"missing\.raw cannot be fetched"):
            add(api, "missing", f"{url}/missing.raw")
        assert {view.ref for view in api.templates()} == before
    left = ["systemctl", "list-units", "--plain", "--no-legend", "hatchery-fetch@*", "hatchery-unpack@*"]
    assert site.vm.ssh(left).stdout == ""


def test_disks_are_traced_and_a_cold_start_is_made(site: Site) -> None:
    with site.api() as api:
        api.start_histograms()
        api.finish(api.cold(), deadline=900)
        # Something for the disks to do, whatever the cache holds.
        site.vm.ssh(["dd", f"if={DISKS[0].by_id}", "of=/dev/null", "bs=1M", "count=4", "iflag=direct"])
        counted = api.stop_histograms()
    assert counted.disks_missing == ""
    assert sum(sum(disk.histogram.counts) for disk in counted.disks if disk.role == "backend") >= 4
    assert site.vm.ssh(["systemctl", "is-active", "hatchery-latencies"], check=False).stdout.strip() == "inactive"


def test_an_ephemeral_clone_is_made_and_removed(site: Site) -> None:
    with site.api() as api:
        template = api.templates()[0].ref
        (made,) = api.create_clones(
            CloneCreate(name="brief", template=template, client=CLIENT, kind=CloneKind.EPHEMERAL)
        )
        assert made.state == "ready"
        api.remove_clone("brief", force=True)


def test_a_seed_is_its_clients_to_read_also_after_the_daemon_started_anew(site: Site, tmp_path: Path) -> None:
    source = f"nbd://{LOOPBACK}:{site.vm.port(NBD_PORT)}/seeded:seed"
    with site.api() as api:
        spec = SeedSpec(hostname="seeded.example")
        wanted = CloneCreate(name="seeded", template=api.templates()[0].ref, client=CLIENT, seed=spec)
        api.create_clones(wanted)
        folder = site.vm.ssh(["stat", "--format=%U:%g %a", f"/run/hatchery/seeds/{CLIENT}"]).stdout.strip()
        assert folder == f"root:{user_of(site, CLIENT)} 2750"
        for name in ("first", "again"):
            site.runner.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", source, tmp_path / name], timeout=120)
            assert b"seeded.example" in (tmp_path / name).read_bytes()
            site.vm.ssh(["systemctl", "restart", f"hatchery-nbd@{CLIENT}.service"])
        api.remove_clone("seeded", force=True)
    assert site.vm.ssh(["ls", f"/run/hatchery/seeds/{CLIENT}"]).stdout == ""


DETACH = 'echo 1 > "/sys/block/$(basename "$(readlink -f "$0")")/device/delete"'
RESCAN = 'for host in /sys/class/scsi_host/*/scan; do echo "- - -" > "$host"; done'


@pytest.mark.heavy
def test_a_disk_that_answers_again_is_taken_back(site: Site) -> None:
    disk = DISKS[1].by_id
    before = runs(site)
    with site.api() as api:
        site.vm.ssh(["sh", "-c", DETACH, disk])
        until(lambda: api.status().health != "ok", "the loss to be seen", deadline=120, interval=1)
        site.vm.ssh(["sh", "-c", RESCAN])
        try:
            until(lambda: api.status().health == "ok", "the disk to be taken back", deadline=600, interval=2)
        except BaseException:
            print(api.status().problems)
            raise
    assert runs(site) > before
    assert site.failed_units() == ""


def runs(site: Site) -> int:
    """How often the store was mended."""
    words = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--unit=hatchery-mend", "--grep=^Finished"]
    return len(site.vm.ssh(words, check=False).stdout.splitlines())


def test_a_backup_is_made_by_its_unit(site: Site) -> None:
    site.vm.ssh(["systemctl", "start", "hatchery-backup"], timeout=300)
    assert site.failed_units() == ""


@pytest.mark.heavy
def test_the_arrays_are_scrubbed_by_their_unit(site: Site) -> None:
    site.vm.ssh(["systemctl", "start", "hatchery-scrub"], timeout=900)
    words = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--unit=hatchery-scrub"]
    said = site.vm.ssh(words).stdout
    assert "hatchery:backend: everything can be read, and no copy differs" in said
    assert site.failed_units() == ""


ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())"


def test_who_may_only_look_serves_metrics_and_a_page(site: Site) -> None:
    def ask(path: str) -> str:
        return site.vm.ssh(["python3", "-c", ASK, f"http://127.0.0.1:9750/{path}"], timeout=120).stdout

    assert ask("health").strip() == "ok"
    assert "hatchery_cache_attached 1.0" in ask("metrics")
    assert "<title>Hatchery: ok</title>" in ask("")
    assert rights(site, "hatchery-status") == {"CapEff": 0, "CapBnd": 0, "NoNewPrivs": 1, "Seccomp": 2}
    socket = site.vm.ssh(["stat", "--format=%U:%G %a", "/run/hatchery/read/api.sock"]).stdout.strip()
    assert socket == "root:hatchery-status 660"
