"""What takes long has a bar at a terminal, with its rate and the time that is left."""

import gzip
import hashlib
import io
import logging
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.progress import Progress

from appliance import progress, wait
from appliance.cli import image_export, support
from appliance.host.block import Device
from appliance.model import MIB
from appliance.progress import QUIET, display
from appliance.rescue import repair, stream
from appliance.run import Process
from appliance.schema import StillView
from appliance.service.core import SMALL
from appliance.update import plan, slots
from tests.unit.learning_box import boot
from tests.unit.screen import Screen, screen
from tests.unit.service_harness import IMAGE
from tests.unit.test_cli import Appliance, appliance, image

__all__ = ["appliance", "image", "screen"]


@pytest.fixture
def web(appliance: Appliance, image: Path) -> Appliance:
    appliance.json("template", "add", "debian", str(image))
    return appliance


# --- the bar


@pytest.mark.parametrize(
    ("things", "total", "amount", "rate", "left"),
    [
        ("", 600 * MIB, "150.0 MiB of 600.0 MiB", "5.0 MiB/s", "left: 0:01:30"),
        ("", None, "150.0 MiB", "5.0 MiB/s", "left: -:--:--"),
        ("boots", 600 * MIB, f"{150 * MIB}/{600 * MIB} boots", f"{5 * MIB}.0 boots/s", "left: 0:01:30"),
    ],
)
def test_rate_and_time_left_are_what_they_say(
    things: str, total: int | None, amount: str, rate: str, left: str
) -> None:
    now = [1000.0]
    shown = Progress(get_time=lambda: now[0])
    number = shown.add_task("x", total=total, things=things)
    [task] = shown.tasks
    assert display._Rate().render(task).plain == "?"
    now[0] += 30
    shown.advance(number, 150 * MIB)
    assert display._Amount().render(task).plain == amount
    assert display._Rate().render(task).plain == rate
    assert display._Left().render(task).plain == left


def test_what_comes_seldom_is_counted_by_the_minute() -> None:
    now = [0.0]
    shown = Progress(get_time=lambda: now[0])
    number = shown.add_task("x", total=4, things="boots")
    now[0] += 120
    shown.advance(number, 1)
    [task] = shown.tasks
    assert display._Rate().render(task).plain == "0.5 boots/min"
    assert display._Left().render(task).plain == "left: 0:06:00"


def test_each_phase_begins_anew_and_what_is_logged_stands_above(
    screen: Screen, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        with progress.bar("first", 4, "files") as bar:
            bar.add(3)
            bar.tell("second", 1, 2, "boots")
            logging.getLogger().warning("a line of the log")
            bar.begin("third")
            bar.add(5 * MIB)
    finally:
        logging.getLogger().removeHandler(handler)
    screen.seen("first", "3/4 files")
    screen.seen("second", "1/2 boots")
    screen.seen("third", "5.0 MiB", left=False)
    assert "a line of the log" in screen.lines
    assert handler.stream is sys.stderr
    assert capsys.readouterr().err == ""


def test_where_nobody_watches_there_is_no_bar(screen: Screen) -> None:
    with progress.bar("x", show=False) as bar:
        assert bar is QUIET
    assert screen.lines == []


def test_no_terminal_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("x", 3) as bar:
        assert bar is QUIET
    assert capsys.readouterr() == ("", "")


# --- operations


def test_emptying_the_cache(web: Appliance, screen: Screen) -> None:
    assert web.run("cache", "cold")[0] == 0
    screen.seen("cache: ", "4/4 steps")
    [operation] = [each for each in web.json("operation", "list") if each["kind"] == "cold"]
    assert (operation["counts"], operation["done_count"], operation["total_count"]) == ("steps", 4, 4)
    assert (operation["done_bytes"], operation["total_bytes"]) == (1 * MIB, 4 * MIB), "what was written back before"
    assert "4 of 4 steps" in web.run("operation", "list")[1]


def test_collecting(web: Appliance, screen: Screen) -> None:
    web.json("clone", "create", "web", "-t", "debian", "--count", "2")
    thin_ids = [clone.thin_id for clone in web.box.service.core.catalog.clones()]
    web.box.pool.sizes.update(dict.fromkeys(thin_ids, 4 * SMALL))
    web.json("clone", "remove", "web-1", "web-2")
    told: list[tuple[int, int]] = []
    web.box.pool.step = lambda _: told.extend(
        (each.done_bytes, each.total_bytes or 0) for each in web.box.service.operations.list() if each.kind == "gc"
    )
    assert web.run("gc")[0] == 0
    screen.seen("all pools: ", f"{4 * SMALL // MIB * 2}.0 MiB of" if 8 * SMALL < 1024 * MIB else "GiB of")
    assert {total for _, total in told} <= {0, 8 * SMALL}
    assert {done for done, _ in told} >= {4 * SMALL - SMALL, 4 * SMALL}, "after pieces of the first, and the first"


def test_learning(web: Appliance, screen: Screen) -> None:
    def boots() -> None:
        operations = web.box.service.operations
        wait.until(lambda: any(each.kind == "learn" for each in operations.list()), "the wish", deadline=10)
        for name in ("one", "two"):
            boot(web.box, name)

    thread = threading.Thread(target=boots)
    thread.start()
    try:
        assert web.run("template", "learn", "debian", "--runs", "2", "--wait")[0] == 0
    finally:
        thread.join()
    screen.seen("debian@1: ", "2/2 boots")


def test_making_and_removing_many(web: Appliance, screen: Screen) -> None:
    made = web.run("clone", "create", "web", "-t", "debian", "--count", "12")
    assert made[0] == 0
    screen.seen("web-1 to web-12: ", "12/12 clones")
    names = [f"web-{number}" for number in range(1, 13)]
    assert [view["name"] for view in web.json("clone", "list")] == sorted(names)
    assert web.run("clone", "remove", *names)[0] == 0
    screen.seen("removing", "12/12 clones")


# --- what this program does itself


def test_a_support_bundle(web: Appliance, screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = SimpleNamespace(returncode=0, stdout="said", stderr="")
    monkeypatch.setattr(support, "Runner", lambda: SimpleNamespace(run=lambda *_, **__: done))
    assert web.run("support-bundle", str(tmp_path / "x.tar.gz"))[0] == 0
    whole = len(support.LOOKS) + len(support.PROGRAMS)
    screen.seen("collected ", f"{whole}/{whole} files")


def test_a_packed_image(appliance: Appliance, screen: Screen, tmp_path: Path) -> None:
    file = tmp_path / "disk.raw.gz"
    file.write_bytes(gzip.compress(IMAGE + os.urandom(2 * MIB)))
    packed = f"{file.stat().st_size / MIB:.1f} MiB"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert appliance.run("template", "add", "debian", str(file), "--sha256", digest)[0] == 0
    for words in ("comparing disk.raw.gz", "unpacking disk.raw.gz"):
        screen.seen(words, f"{packed} of {packed}")
    screen.seen("sending disk.raw.gz", "5.0 MiB of 5.0 MiB")


def test_an_export_to_the_standard_output(screen: Screen, tmp_path: Path) -> None:
    file, target = tmp_path / "image", io.BytesIO()
    file.write_bytes(IMAGE)
    still = StillView(id="1", subject="clone web", size=1, data_bytes=1, uri="nbd+unix:///1?socket=/x", created=0)
    image_export._pour(file, target, still, show=True)
    assert target.getvalue() == IMAGE
    screen.seen("clone web: writing to the standard output", "3.0 MiB of 3.0 MiB")


# --- the programs on the appliance


def test_a_backups_dump(screen: Screen, tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, bytes(48 * 1024))
    os.close(theirs)
    target = tmp_path / "dump"
    with os.fdopen(ours, "rb") as pipe, target.open("wb") as file, progress.bar("packing", 64 * 1024) as bar:
        packer = cast(Process, SimpleNamespace(popen=SimpleNamespace(stdout=pipe)))
        stream._copy(packer, file.fileno(), target, MIB, time.monotonic() + 10, bar)
    assert target.stat().st_size == 48 * 1024
    screen.seen("packing", "48.0 KiB of 64.0 KiB")


def test_metadata_that_is_written_back(screen: Screen, tmp_path: Path) -> None:
    image, device = tmp_path / "image", tmp_path / "device"
    image.write_bytes(b"x" * 2 * MIB)
    device.write_bytes(bytes(2 * MIB))
    with progress.bar("repairing") as bar:
        repair.copy_over(image, device, bar)
    assert device.read_bytes() == image.read_bytes()
    screen.seen("writing the new metadata", "2.0 MiB of 2.0 MiB")


def test_a_version_that_is_written(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    written = iter(range(0, 1000 * MIB, 10 * MIB))
    looks: list[int] = []

    def statistics(_: Device) -> Any:
        looks.append(next(written))
        return SimpleNamespace(write_bytes=looks[-1])

    monkeypatch.setattr(slots, "system_disk", lambda: None)
    monkeypatch.setattr("appliance.host.block.statistics", statistics)
    monkeypatch.setattr(plan, "LOOK_SECONDS", 0.01)
    with progress.bar("applying") as bar, plan._watched(bar, "writing version 1.2.3", 100 * MIB):
        wait.until(lambda: len(looks) > 5, "some looks", deadline=10)
    screen.seen("writing version 1.2.3", "MiB of 100.0 MiB")
