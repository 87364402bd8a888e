"""A program on a terminal, as somebody sits before it who answers what he is asked."""

import os
import pty
import select
import time
from collections.abc import Sequence
from pathlib import Path

from appliance.run import Completed, Runner


def answered(
    runner: Runner, argv: Sequence[str | Path], question: str, answer: str, *, timeout: float = 120
) -> Completed:
    """Run it to its end, and type ``answer`` once it has asked ``question``; what the terminal showed, and its status.

    Fails when it does not ask, or does not end within ``timeout`` seconds.
    """
    ours, its = pty.openpty()
    end, shown, asked = time.monotonic() + timeout, b"", False
    try:
        try:
            process = runner.start(argv, stdin=its, stdout=its, stderr=its)
        finally:
            os.close(its)
        with process:
            while True:
                ready, _, _ = select.select([ours], [], [], max(0.0, end - time.monotonic()))
                assert ready, f"it goes on, after: {shown.decode(errors='replace')}"
                try:
                    shown += os.read(ours, 65536)
                except OSError:  # EIO: nobody has the other end open any more
                    break
                if not asked and question.encode() in shown:
                    os.write(ours, f"{answer}\n".encode())
                    asked = True
            status = process.wait(timeout)
    finally:
        os.close(ours)
    said = shown.decode(errors="replace").replace("\r\n", "\n")
    assert asked, f"it did not ask {question!r}: {said}"
    return Completed(tuple(str(word) for word in argv), status, said, "")
