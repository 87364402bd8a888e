"""The Runner against real processes; the unit tier starts none."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance import wait
from appliance.errors import CommandFailed, DeadlineExceeded, NotReady, Unhealthy
from appliance.images.convert import PlainConverter
from appliance.run import Runner


def test_output_and_status_come_back() -> None:
    done = Runner().run(["sh", "-c", "cat; echo problem >&2; exit 3"], stdin="hello", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello", "problem\n")


def test_a_failure_carries_a_line_to_paste_and_the_reason() -> None:
    with pytest.raises(CommandFailed) as caught:
        Runner().run(["ls", "/no such place"])
    assert caught.value.command == "ls '/no such place'"
    assert "No such file" in caught.value.why


def test_the_locale_is_fixed_and_the_environment_extended() -> None:
    done = Runner({"COLOUR": "red"}).run(["sh", "-c", 'echo "$LC_ALL $COLOUR"'])
    assert done.stdout == "C.UTF-8 red\n"


def test_a_missing_program_is_named() -> None:
    for attempt in (Runner().run, Runner().start):
        with pytest.raises(NotReady, match="no-such-program"):
            attempt(["no-such-program"])


def test_a_hung_command_ends_at_its_deadline() -> None:
    with pytest.raises(DeadlineExceeded, match="sleep 60"):
        Runner().run(["sleep", "60"], timeout=0.1)


def test_words_are_never_read_by_a_shell(tmp_path: Path) -> None:
    done = Runner().run(["printf", "%s", f"; touch {tmp_path}/owned"])
    assert done.stdout == f"; touch {tmp_path}/owned"
    assert list(tmp_path.iterdir()) == []


def test_stopping_ends_the_children_too(tmp_path: Path) -> None:
    code = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
        "child.wait()\n"
    )
    note = tmp_path / "pid"
    with Runner().start([sys.executable, "-c", code, note]) as process:
        child = wait.until(lambda: note.read_text() if note.exists() else None, "the child's pid", deadline=10)
        assert process.running()
    assert process.popen.returncode == -signal.SIGTERM
    wait.until(lambda: _gone(int(child)), f"the end of child {child}", deadline=10)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    process = Runner().start(["sh", "-c", 'trap "" TERM; : > "$1"; while :; do sleep 60; done', "sh", deaf])
    wait.until(deaf.exists, "the trap to be set", deadline=10)
    assert process.stop(grace=0.2) == -signal.SIGKILL


def test_a_conversion_that_is_stopped_has_failed(tmp_path: Path) -> None:
    slow = tmp_path / "qemu-img"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    converter = PlainConverter(Runner({"PATH": f"{tmp_path}:{os.environ['PATH']}"}))
    with ThreadPoolExecutor(1) as pool:
        converting = pool.submit(converter.convert, tmp_path / "image", tmp_path / "disk", 7)
        converter.stop(8)  # another one

        def ended() -> bool:
            converter.stop(7)
            return converting.done()

        wait.until(ended, "the end of the conversion", deadline=10)
    with pytest.raises(Unhealthy, match="could not run"):
        converting.result()


def _gone(pid: int) -> bool:
    """Whether the process ended; a zombie that nobody reaped yet has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"
