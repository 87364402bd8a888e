"""``console``: what stands above the login prompt on the machine's screen: address, health, and what to do next.

agetty(8) shows the files of /run/issue.d, and fills in the addresses (``\\4``, ``\\6``) by itself, also when they
change.
"""

from pathlib import Path

from appliance.config import Part, Paths
from appliance.run import Runner

TARGET = Path("/run/issue.d/hatchery.issue")
SERVICE = "hatcheryd.service"

_LINE = "  {:<9} {}"


def issue(show: str, *, deployed: bool, given_up: str = "") -> str:
    """The text for a store that was set up or not, and what ``systemctl show`` says of the service. Pure.

    ``show`` has ActiveState, SubState, Result and StatusText; ``given_up`` is why the last update was, if it was. A
    backslash would be agetty's, so none is passed on.
    """
    values = dict(line.partition("=")[::2] for line in show.splitlines())
    state, words = values.get("ActiveState", "unknown"), values.get("StatusText", "")
    ways = ("log in", "by key: ssh root@\\4")
    if not deployed:
        rows = [
            ("state", "not deployed: there is no store yet"),
            ways,
            ("next", "name its disks (ls -l /dev/disk/by-id) in an inventory, and run ansible/deploy.yml"),
        ]
    elif state == "active":
        rows = [("health", words or "the service runs"), ways, ("look", "http://\\4:9750/, or run: hatchery status")]
    elif state in ("activating", "reloading"):
        rows = [("state", "the store is starting"), ways]
    elif state == "inactive" and values.get("Result") == "success":
        # So it is for some seconds of each start, too.
        rows = [("state", "the service is not started"), ways, ("look", "systemctl status hatchery.target")]
    else:
        why = ", ".join(
            filter(None, (values.get("SubState", ""), values.get("Result", "").replace("success", ""), words))
        )
        rows = [("state", f"the service does not run: {why}"), ways]
        rows.append(("next", "journalctl -u hatchery-store -u hatcheryd"))
    if given_up:
        rows += [("update", given_up), ("next", "hatchery-update status; make a better bundle, or try again: --again")]
    body = [_LINE.format(name, _plain(text)) for name, text in rows]
    return "\n".join(["Hatchery", _LINE.format("address", "\\4 \\6"), *body, "", ""])


def _plain(text: str) -> str:
    """Words as a console may show them: without control characters, and without escapes but for the address."""
    kept = "".join(char if char.isprintable() else " " for char in text)
    return kept.replace("\\4", "\0").replace("\\", "/").replace("\0", "\\4")


def main() -> None:
    """Entry point: write the text where it changed, and have those prompts drawn anew at which nobody types."""
    runner = Runner()
    wanted = ["--property=ActiveState,SubState,Result,StatusText", SERVICE]
    show = runner.run(["systemctl", "show", *wanted], check=False).stdout
    paths = Paths()
    given_up = paths.given_up.read_text(encoding="utf-8").strip() if paths.given_up.exists() else ""
    text = issue(show, deployed=(paths.conf_d / Part.STORE.file_name).exists(), given_up=given_up)
    before = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    if text == before:
        return
    TARGET.parent.mkdir(mode=0o755, exist_ok=True)
    fresh = TARGET.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.rename(TARGET)
    runner.run(["agetty", "--reload"], check=False)


if __name__ == "__main__":
    main()
