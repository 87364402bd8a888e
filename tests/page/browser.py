"""Headless Chromium, spoken with by the DevTools protocol over two pipes: no driver, no library, no port.

https://chromedevtools.github.io/devtools-protocol/: messages are JSON, each followed by a zero byte; Chromium reads
them from descriptor 3 and writes to 4.
"""

import base64
import fcntl
import json
import os
import select
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import IO, Any

from appliance.run import Runner
from tests.tier import require

PATIENCE = 30.0
"""Seconds for an answer, or for an event: a page that is slower on a busy machine is hung."""

WORDS = (
    "--headless=new",
    # The sandbox wants a user namespace, which root in a container may not have; all that is loaded is ours.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def program() -> str:
    """Where Chromium is. Without it a user's tests are skipped, and CI's fail."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    require(found, "chromium is missing: script/bootstrap --browser installs it")
    assert found is not None
    return found


@dataclass
class Tab:
    """A page that is looked at. ``asked``: the URLs that it wanted; ``complaints``: errors of scripts, and refusals."""

    browser: "Browser"
    session: str
    target: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def call(self, method: str, **params: object) -> Any:
        """One call about this page."""
        return self.browser.call(method, self.session, **params)

    def show(self, width: int, height: int, *, dark: bool = False, scripts: bool = True) -> None:
        """What it is shown on."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def open(self, url: str) -> None:
        """Load a page, and wait until that is done."""
        self.browser.events.clear()
        self.call("Page.navigate", url=url)
        self.browser.wait(lambda event: event["method"] == "Page.loadEventFired")

    def run(self, script: str) -> Any:
        """What an expression comes to; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        end = monotonic() + PATIENCE
        while not self.run(script):
            assert monotonic() < end, f"{script} does not come true"
            self.run("new Promise((done) => setTimeout(done, 50))")

    def press(self, key: str) -> None:
        """Press a key."""
        code = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}[key]
        # A key that writes something does what it does by its text.
        down = {"type": "keyDown", "text": "\r"} if key == "Enter" else {"type": "rawKeyDown"}
        for kind in (down, {"type": "keyUp"}):
            self.call("Input.dispatchKeyEvent", **kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, file: Path) -> bytes:
        """All of the page as a PNG, which is left in a file."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        content = base64.b64decode(shot["data"])
        file.write_bytes(content)
        return content

    def take(self, event: Any) -> None:
        """Something happened on the page."""
        params = event["params"]
        match event["method"]:
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


class Browser:
    """A running Chromium."""

    def __init__(self, to: IO[bytes], back: IO[bytes]) -> None:
        self._to = to
        self._back = back
        self._rest = b""
        self._count = 0
        self._tabs: dict[str, Tab] = {}
        self.events: list[Any] = []

    def tab(self) -> Tab:
        """A new page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        made = self._tabs[session] = Tab(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            made.call(f"{domain}.enable")
        return made

    def close(self, tab: Tab) -> None:
        """A page that nobody looks at any more asks for nothing any more."""
        self.call("Target.closeTarget", targetId=tab.target)
        del self._tabs[tab.session]

    def call(self, method: str, session: str | None = None, **params: object) -> Any:
        """Call a method and wait for its answer; events that come before it are kept."""
        self._count += 1
        message: dict[str, object] = {"id": self._count, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            found = self._next()
            if found.get("id") == self._count:
                assert "error" not in found, f"{method}: {found['error']}"
                return found["result"]

    def wait(self, wanted: Any) -> None:
        """Wait for an event."""
        while not any(map(wanted, self.events)):
            self._next()

    def _next(self) -> Any:
        end = monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], max(0.0, end - monotonic()))
            assert ready, "Chromium does not answer"
            piece = os.read(self._back.fileno(), 1 << 16)
            assert piece, "Chromium has ended"
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
            tab = self._tabs.get(message.get("sessionId", ""))
            if tab is not None:
                tab.take(message)
        return message


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own in ``folder``, which reaches nothing but this machine."""
    ours_in, low_out = os.pipe()
    low_in, ours_out = os.pipe()
    # Out of the way of 3 and 4.
    theirs_in, theirs_out = (fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (low_in, low_out))
    os.close(low_in)
    os.close(low_out)
    # No name leads anywhere: what a page asks of another host fails, and is seen.
    words = [program(), *WORDS, f"--user-data-dir={folder}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    shell = ["sh", "-c", f'exec "$@" 3</proc/self/fd/{theirs_in} 4>/proc/self/fd/{theirs_out}', "sh", *words]
    with open(ours_in, "rb", buffering=0) as back, open(ours_out, "wb") as to:  # noqa: PTH123  descriptors
        log = (folder.parent / "chromium.log").open("wb")
        with log, Runner({"HOME": str(folder)}).start(shell, stderr=log, pass_fds=(theirs_in, theirs_out)) as process:
            os.close(theirs_in)
            os.close(theirs_out)
            browser = Browser(to, back)
            yield browser
            browser.call("Browser.close")
            process.wait(10)
