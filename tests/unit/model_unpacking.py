"""Unpacking by a thread that has pipes, as the process has."""

import contextlib
import os
import threading
from typing import IO

from appliance.images import unpacking
from appliance.model import Compression


class ModelUnpacking:
    """See ``unpacking.Unpacking``."""

    def __init__(self, kind: Compression) -> None:
        packed, given = os.pipe()
        got, content = os.pipe()
        self.input: IO[bytes] = os.fdopen(given, "wb")
        self.output: IO[bytes] = os.fdopen(got, "rb")
        self._why = ""
        self._process = threading.Thread(target=self._work, args=(kind, packed, content))
        self._process.start()

    def _work(self, kind: Compression, packed: int, content: int) -> None:
        with os.fdopen(packed, "rb") as source, contextlib.suppress(BrokenPipeError), os.fdopen(content, "wb") as to:
            self._why = unpacking.serve(kind, source, to)

    def end(self) -> str:
        self._process.join(10)
        return self._why

    def stop(self) -> None:
        """What it still writes meets nobody."""
        with contextlib.suppress(BrokenPipeError):
            self.input.close()
        self.output.close()
        self._process.join(10)
