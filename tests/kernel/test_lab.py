"""The lab itself: it boots, answers, keeps its disks over a power cut, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import wait
from tests.kernel.lab import CHECKOUT, Disks, InsideError, Lab, LabError, Options


def test_commands_and_functions_answer(lab: Lab) -> None:
    done = lab.run(["sh", "-c", 'cat; echo "$COLOUR" >&2; exit 3'], stdin="hello", env={"COLOUR": "red"}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello", "red\n")
    assert lab.call("os:getpid") > 1
    with pytest.raises(InsideError) as caught:
        lab.call("os:listdir", "/no such place")
    assert caught.value.kind == "FileNotFoundError"
    long = lab.call("json:dumps", ["x" * 100_000])
    assert len(long) == 100_004


def test_a_hung_command_ends_at_its_deadline_and_others_run_meanwhile(lab: Lab) -> None:
    hung = lab.begin(["sleep", "600"], timeout=1)
    assert lab.run(["echo", "meanwhile"]).stdout == "meanwhile\n"
    with pytest.raises(LabError, match="deadline"):
        hung.completed()
    endless = lab.begin(["sleep", "600"])
    endless.kill(signal.SIGTERM)
    assert endless.completed().returncode == -signal.SIGTERM


def test_disks_and_settings_outlive_a_power_cut_and_nothing_else_does(tree: Path) -> None:
    with Lab(tree) as lab:
        lab.run(["dd", "if=/proc/version", "of=/dev/disk/by-id/nvme-LAB_0", "bs=512", "conv=sync", "oflag=direct"])
        lab.run(["sh", "-c", "echo kept > /etc/hatchery/word; echo lost > /etc/word"])
        lab.restart()
        assert "Linux version" in lab.run(["head", "-c", "14", "/dev/disk/by-id/nvme-LAB_0"]).stdout.strip("\0")
        assert lab.run(["cat", "/etc/hatchery/word"]).stdout == "kept\n"
        assert lab.run(["cat", "/etc/word"], check=False).returncode == 1
        assert lab.run(["cat", "/sys/block/ubda/serial"]).stdout == "LAB_0"


def test_a_disk_dies_and_comes_back(tree: Path) -> None:
    with Lab(tree, Options(nvme=Disks.FAULTY, disks=Disks.FAULTY)) as lab:
        read = ["dd", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"]
        for number, name in ((0, "nvme-LAB_0"), (2, "ata-LAB_2")):
            disk = f"if=/dev/disk/by-id/{name}"
            assert lab.run([*read, disk], check=False).returncode == 0
            lab.call("tests.kernel.inside.disks:fail", number)
            assert lab.run([*read, disk], check=False).returncode != 0
            lab.call("tests.kernel.inside.disks:heal", number)
            assert lab.run([*read, disk], check=False).returncode == 0


def test_nothing_is_left_when_the_test_process_is_killed(tree: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.kernel.lab import Lab\n"
        "lab = Lab(Path(sys.argv[1])).start(); print(lab.folder, flush=True); sys.stdin.read()\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, tree],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        env=environment,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        folder = owner.stdout.readline().strip()
        assert users_of(folder)
        owner.kill()
    wait.until(lambda: not users_of(folder), "the lab's end", deadline=30)
    os.utime(folder, (0, 0))
    with Lab(tree) as fresh:
        same_place = fresh.folder.parent == Path(folder).parent
    assert Path(folder).exists() != same_place


def users_of(folder: str) -> list[str]:
    """Processes that have the folder in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if folder in entry.read_text(errors="replace"):
                found.append(entry.parent.name)
        except OSError:
            continue
    return found
