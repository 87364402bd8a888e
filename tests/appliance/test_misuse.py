"""Who asks for more than there is hurts himself alone: a client's storage daemon, and the conversion of an image."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.images.convert import MEMORY_MAX
from appliance.model import GIB, MIB, ImageFormat
from appliance.schema import ClientSpec, CloneCreate, TemplateCreate, UploadSource
from appliance.wait import until
from tests.appliance.site import CLIENT, TEMPLATE, Play, Site
from tests.appliance.users import writing
from tests.kernel.inside.hostile import bomb

GREEDY, PORT = "greedy", 10898
NEIGHBOUR = "neighbour"


@pytest.fixture(autouse=True)
def deployed_site(deployed: Play) -> None:
    if deployed.failed:
        pytest.fail(deployed.said)


def shown(site: Site, client: str, *names: str) -> list[str]:
    """Properties of a client's storage daemon, as its unit has them."""
    words = [f"--property={name}" for name in names]
    said = site.vm.ssh(["systemctl", "show", *words, f"hatchery-nbd@{client}.service"]).stdout
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    return [found[name] for name in names]


@pytest.fixture
def clones(site: Site) -> Iterator[None]:
    """A clone of a client that will misbehave, and one of its neighbour."""
    with site.api() as api:
        api.put_client(GREEDY, ClientSpec(transport="tcp", address="127.0.0.1", port=PORT, plain=True))
        for name, client in ((GREEDY, GREEDY), (NEIGHBOUR, CLIENT)):
            api.create_clones(CloneCreate(name=name, template=TEMPLATE, client=client, learn=False))
        try:
            yield
        finally:
            for name in (GREEDY, NEIGHBOUR):
                api.remove_clone(name, force=True)
            api.remove_client(GREEDY)


SPARE = 12 * MIB
"""What the daemon may have beyond what it has already: less than one of the requests."""

OVERLOAD = f"""
for n in 1 2 3 4; do
    qemu-io -f raw nbd://127.0.0.1:{PORT}/{GREEDY} -c "write -q -P $n 0 32M" &
done
wait
"""
"""Requests of 32 MiB, NBD's largest, whose data the daemon has to hold before it may write it."""


@pytest.mark.heavy
@pytest.mark.usefixtures("clones")
def test_a_daemon_that_takes_too_much_memory_is_ended_alone_and_comes_back(site: Site) -> None:
    usual = shown(site, GREEDY, "MemoryMax", "TasksMax")
    assert usual == [str(2 * GIB), "512"]
    neighbour = shown(site, CLIENT, "MainPID", "NRestarts")
    (has,) = shown(site, GREEDY, "MemoryCurrent")
    unit = f"hatchery-nbd@{GREEDY}.service"
    site.vm.ssh(["systemctl", "set-property", "--runtime", unit, f"MemoryMax={int(has) + SPARE}", "MemorySwapMax=0"])
    pid, before = shown(site, GREEDY, "MainPID", "NRestarts")
    with writing(site, NEIGHBOUR):
        said = site.vm.ssh(["sh", "-c", OVERLOAD], check=False, timeout=300)
        print(said.stdout, said.stderr)

        def back() -> bool:
            now, restarts, state = shown(site, GREEDY, "MainPID", "NRestarts", "ActiveState")
            return now not in ("0", pid) and int(restarts) > int(before) and state == "active"

        until(back, "another storage daemon", deadline=120, interval=1)
        words = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--unit={unit}"]
        assert "killed by the OOM killer" in site.vm.ssh(words).stdout
        # It serves again, what it can hold.
        read = ["qemu-io", "-f", "raw", f"nbd://127.0.0.1:{PORT}/{GREEDY}", "-c", "read -q 0 64k"]
        site.vm.ssh(read, timeout=120)
    assert shown(site, CLIENT, "MainPID", "NRestarts") == neighbour, "its neighbour was left alone"
    site.vm.ssh(["systemctl", "set-property", "--runtime", unit, f"MemoryMax={usual[0]}"])
    assert site.failed_units() == ""


WATCH = """
import subprocess, time
words = ["--property=MemoryMax", "--property=MemoryPeak", "--property=TasksMax", "--property=MemorySwapMax"]
seen, end = "", time.monotonic() + 500
while time.monotonic() < end:
    show = ["systemctl", "show", "--state=active", *words, "hatchery-import@*.service"]
    found = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    if seen and not found:
        break
    seen = found or seen
print(seen)
"""
"""What the unit of a conversion has, and had at most, when it was seen last."""


@pytest.mark.heavy
def test_a_bomb_is_unpacked_within_the_conversions_bounds(site: Site, tmp_path: Path) -> None:
    size = 512 * MIB
    image = tmp_path / "bomb.qcow2"
    bomb(image, size)
    assert image.stat().st_size < 2 * MIB
    with site.api() as api, ThreadPoolExecutor(1) as pool:
        watched = pool.submit(site.vm.ssh, ["python3", "-c", WATCH], timeout=600)
        wanted = TemplateCreate(name="bomb", format=ImageFormat.QCOW2, source=UploadSource(), size=image.stat().st_size)
        before = api.status().store.pool
        operation = api.import_template(wanted)
        with image.open("rb") as source:
            api.upload("bomb", image.stat().st_size, iter(lambda: source.read(MIB), b""), operation)
        api.finish(operation, deadline=500)
        try:
            assert api.template("bomb").size == size
            after = api.status().store.pool
            assert before is not None
            assert after is not None
            assert after.data_used - before.data_used < 16 * MIB, "zeros take no space"
        finally:
            api.remove_template("bomb")
        said = watched.result().stdout
    found = dict(line.partition("=")[::2] for line in said.splitlines() if line)
    print(found)
    assert MEMORY_MAX == "1G"
    assert (found["MemoryMax"], found["MemorySwapMax"], found["TasksMax"]) == (str(GIB), "0", "32")
    assert 0 < int(found["MemoryPeak"]) < 256 * MIB, "its bound is far away"
    assert site.failed_units() == ""
