"""The Ansible collection: built, installed and used as somebody would who has nothing else."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from appliance.run import Runner
from tests.lint.files import ROOT

BIN = Path(sys.executable).parent
NAME = "hatchery.appliance"
MODULES = sorted(file.stem for file in (ROOT / "ansible/plugins/modules").glob("*.py"))
ROLES = sorted(folder.name for folder in (ROOT / "roles").iterdir())


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of collections that it was installed into."""
    folder = tmp_path_factory.mktemp("collection")
    built = Runner().run([ROOT / "script/collection", "--output", folder], timeout=120)
    archive = built.stdout.strip().splitlines()[-1]
    argv: list[str | Path] = [
        BIN / "ansible-galaxy",
        "collection",
        "install",
        "--offline",
        "-p",
        folder / "there",
        archive,
    ]
    Runner({"HOME": str(folder)}).run(argv, timeout=120)
    (folder / "there/ansible.cfg").write_text("")
    return folder / "there"


def ansible(installed: Path, program: str, *words: str | Path) -> str:
    """What one of Ansible's programs says, away from the checkout and its ansible.cfg."""
    environment = {
        "ANSIBLE_COLLECTIONS_PATH": str(installed),
        "ANSIBLE_CONFIG": str(installed / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "HOME": str(installed),
    }
    done = Runner(environment).run([BIN / program, *words], timeout=120, check=False)
    return " ".join((done.stdout + done.stderr).split())


def test_everything_is_in_it(installed: Path) -> None:
    there = installed / "ansible_collections/hatchery/appliance"
    assert sorted(file.stem for file in (there / "plugins/modules").glob("*.py")) == MODULES
    assert sorted(folder.name for folder in (there / "roles").iterdir()) == ROLES
    playbooks = {file.stem for file in (there / "playbooks").glob("*.yml")}
    assert playbooks == {file.stem for file in (ROOT / "ansible").glob("*.yml")} - {"galaxy"}
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "MANIFEST.json", "meta/runtime.yml"):
        assert (there / name).is_file()
    assert not list(there.rglob("*.pyc"))


def test_it_has_the_projects_version_and_names_its_roles() -> None:
    about = yaml.safe_load((ROOT / "ansible/galaxy.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert about["version"] == project["version"]
    assert re.search(rf"^## {re.escape(about['version'])}\b", (ROOT / "ansible/CHANGELOG.md").read_text(), re.MULTILINE)
    readme = (ROOT / "ansible/README.md").read_text(encoding="utf-8")
    assert [role for role in ROLES if f"`{role}`" not in readme] == []


def test_its_changelog_tells_of_all_that_is_in_it() -> None:
    told = (ROOT / "ansible/CHANGELOG.md").read_text(encoding="utf-8")
    playbooks = sorted(file.stem for file in (ROOT / "ansible").glob("*.yml") if file.name != "galaxy.yml")
    assert len(playbooks) >= 4
    assert [name for name in (*ROLES, *MODULES, *playbooks) if f"`{name}`" not in told] == []


def test_its_modules_are_documented_and_can_be_run(installed: Path) -> None:
    shown = ansible(installed, "ansible-doc", "--type", "module", *(f"{NAME}.{module}" for module in MODULES))
    assert [module for module in MODULES if f"MODULE {NAME}.{module}" not in shown] == []
    words = ["localhost", "-m", f"{NAME}.hatchery_nvme", "-a", "devices=/dev/disk/by-id/nvme-NONE", "--check"]
    assert "Failed to find required executable" in ansible(installed, "ansible", *words)


def test_its_playbooks_find_its_roles(installed: Path, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    variables = {"ansible_connection": "local", "nvme_cache_devices": ["/dev/sda"]}
    inventory.write_text(yaml.safe_dump({"hatchery": {"hosts": {"box": variables}}}))
    said = ansible(installed, "ansible-playbook", "-i", inventory, f"{NAME}.deploy")
    assert "nvme_cache_devices must name one drive or two" in said
    said = ansible(installed, "ansible-playbook", "-i", inventory, f"{NAME}.remove", "-e", "remove_serials=''")
    assert "the serial number of every drive" in said
