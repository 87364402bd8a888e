"""A model of the kernel's NVMe target: its folder in configfs, with the rules of Linux 6.12's nvmet."""

import errno
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from appliance import nvme_target
from appliance.host import nvmet, nvmet_request
from appliance.host.nvmet import Found, Step, Target, Verb, Wanted
from appliance.host.nvmet_request import Files, Outcome, Request

KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "hosts": (("dhchap_key", "dhchap_ctrl_key", "dhchap_dhgroup", "dhchap_hash"), ()),
    "ports": (("addr_trtype", "addr_adrfam", "addr_traddr", "addr_trsvcid"), ("subsystems",)),
    "subsystems": (("attr_allow_any_host", "attr_model", "attr_serial"), ("allowed_hosts", "namespaces")),
    "namespaces": (("device_path", "device_uuid", "enable"), ()),
}
"""What the kernel makes in a new folder: files, and folders."""


class ModelFolder(Target):
    """The folder. A new one of the right kind has its files; what the kernel refuses is refused."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        for name in ("hosts", "ports", "subsystems"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.used: set[str] = set()
        """Subsystems that a host has looked at."""
        self.refuse: dict[str, int] = {}
        """Steps, as text, that fail with an error's number."""
        self.steps: list[str] = []
        self.before: Callable[[Step], None] = lambda _: None
        """Is told of each step before it is taken."""

    def take(self, step: Step) -> None:
        self.before(step)
        self.steps.append(str(step))
        path = self.root / step.path
        for words, number in self.refuse.items():
            if words in str(step):
                raise OSError(number, words)
        match step.verb:
            case Verb.MAKE:
                path.mkdir()
                self._fill(path, step.path)
            case Verb.REMOVE:
                self._remove(path, step.path)
            case Verb.WRITE:
                self._check_write(path, step)
                # As the kernel does, in one write.
                assert path.is_file(), f"{step.path} is not there"
                path.write_text(step.value, encoding="utf-8")
            case _:
                super().take(step)

    def _fill(self, path: Path, name: str) -> None:
        kind, _, rest = name.partition("/")
        if "/namespaces/" in rest:
            kind = "namespaces"
        files, folders = KINDS[kind]
        for each in files:
            (path / each).write_text("0\n" if each in ("enable", "attr_allow_any_host") else "\n", encoding="utf-8")
        for each in folders:
            (path / each).mkdir()

    def _remove(self, path: Path, name: str) -> None:
        held = [each for folder in ("subsystems", "allowed_hosts", "namespaces") for each in (path / folder).glob("*")]
        links = [each for each in self.root.rglob("*") if each.is_symlink() and each.readlink() == path]
        if held or links:
            raise OSError(errno.EBUSY, f"{name} is in use")
        shutil.rmtree(path)

    def _check_write(self, path: Path, step: Step) -> None:
        if path.name == "attr_serial" and path.parent.name in self.used:
            raise OSError(errno.EINVAL, "it was discovered")
        if path.name.startswith("addr_") and any((path.parent / "subsystems").iterdir()):
            raise OSError(errno.EACCES, "it is enabled")
        if path.name == "device_path" and (path.parent / "enable").read_text(encoding="utf-8").strip() == "1":
            raise OSError(errno.EBUSY, "it is enabled")
        if path.name == "attr_allow_any_host" and step.value == "1" and any((path.parent / "allowed_hosts").iterdir()):
            raise OSError(errno.EINVAL, "it has hosts")


class ModelTarget:
    """What the service asks: the program itself over the folder. Without one, the kernel has no target."""

    def __init__(self, folder: Path) -> None:
        self.files = Files(folder / "nvme")
        self.files.folder.mkdir(parents=True, exist_ok=True)
        self.folder: ModelFolder | None = ModelFolder(folder / "nvmet")
        self.peers: dict[int, tuple[str, ...]] = {}
        """Who is connected to a port."""
        self.requests: list[Request] = []

    def apply(self, wanted: Wanted, gently: Collection[str] = ()) -> Outcome:
        self.requests.append(Request(wanted, frozenset(gently)))
        if self.folder is None:
            return Outcome(missing=nvme_target.MISSING)
        self.files.request.write_text(nvmet_request.render(self.requests[-1]), encoding="utf-8")
        nvme_target.serve(self.files, self.folder, lambda port: self.peers.get(port, ()))
        return nvmet_request.read_outcome(self.files)

    def look(self) -> Found:
        return Found({}, {}, {}) if self.folder is None else nvmet.look(self.folder.root)

    def reboot(self) -> None:
        """The machine was off: nothing of it is left."""
        if self.folder is not None:
            shutil.rmtree(self.folder.root)
            self.folder = ModelFolder(self.folder.root)
        self.files.ours.unlink(missing_ok=True)
