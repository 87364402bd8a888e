"""What the documentation says to type where there is an appliance: on the operator's machine, and on the box itself.

It runs after test_life.py, whose first tests need an appliance that was not deployed yet. The commands of ``hatchery``
are mostly run in the kernel tier; tests/pages.py says which are run where.
"""

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.run import Runner
from appliance.schema import ClientSpec, CloneCreate
from bench.vm import Key
from tests.appliance.site import ROOT, SECOND_PORT, TEMPLATE, Play, Site
from tests.appliance.test_update import small_bundle
from tests.appliance.workshop import BOX_ADDRESS, Workshop, workshop
from tests.pages import Place, Story, printed

pytestmark = pytest.mark.heavy

STATUS_ADDRESS = "10.0.0.1"
"""Where docs/install.md puts the status page."""

TLS_PORT = 10840


@pytest.fixture(scope="module")
def shop(site: Site, deployed: Play) -> Iterator[Workshop]:
    """A workshop; the box has the clients hv1 (TLS) and lab (plain) of the pages, and lab a clone, web."""
    if deployed.failed:
        pytest.fail(deployed.said)
    with workshop(site) as made, site.api() as api:
        for name, port in (("hv1", TLS_PORT), ("lab", SECOND_PORT)):
            spec = ClientSpec(transport="tcp", address=BOX_ADDRESS, port=port, plain=name == "lab")
            api.put_client(name, spec)
        api.create_clones(CloneCreate(name="web", template=TEMPLATE, client="lab", learn=False))
        try:
            yield made
        finally:
            api.remove_clone("web", force=True)
            for name in ("hv1", "lab"):
                api.remove_client(name)


BOX_BEFORE = {
    ("docs/install.md", "systemctl edit"): f"ip address replace {STATUS_ADDRESS}/32 dev lo",
}

BOX_CHANGES = {"HATCHERY_USER=alice HATCHERY_RESULT=refused": "HATCHERY_USER=root HATCHERY_RESULT=done"}

AUDITED = re.compile(r"\S+(?: \(\S+, process \d+\))?: \S.*")
"""A line of the audit log, as docs/security.md shows it; without its program where that had ended by then."""


def test_the_commands_for_the_box_do_what_they_say(site: Site, shop: Workshop) -> None:
    assert shop.site is site
    story = Story(Place.BOX, BOX_BEFORE, BOX_CHANGES)
    said: dict[str, str] = {}
    wrong: list[str] = []
    try:
        for page in story.pages():
            done = site.vm.ssh(["bash", "-c", story.script(page)], timeout=600, check=False)
            said.update(printed(done.stdout))
            if done.returncode:
                wrong.append(f"{page} ended with {done.returncode}:\n{done.stderr}")
        listens = site.vm.ssh(["ss", "-Hltn", "sport = :9750"]).stdout
        attached = site.vm.ssh(["hatchery-attach", "--list"]).stdout
    finally:
        undo = (
            "systemctl disable --now hatchery-attach@web; rm -rf /etc/hatchery/attach/web"
            " /etc/systemd/system/hatchery-status.socket.d; systemctl daemon-reload;"
            f" systemctl restart hatchery-status.socket; ip address del {STATUS_ADDRESS}/32 dev lo"
        )
        site.vm.ssh(["sh", "-c", undo], timeout=300, check=False)
    assert not wrong, "\n".join(wrong)
    assert story.idle() == []
    assert f"nbd://{BOX_ADDRESS}:{SECOND_PORT}/web" in attached
    assert [line.split()[3] for line in listens.splitlines()] == [f"{STATUS_ADDRESS}:9750"]
    by_text = {command.text: said[command.where] for of in story.pages().values() for command in of}
    audit = by_text["journalctl -t hatchery-audit -o cat"].splitlines()
    assert audit
    assert [line for line in audit if not AUDITED.fullmatch(line)] == []
    assert "web" in by_text["journalctl -u hatcheryd HATCHERY_CLONE=web"]
    assert site.failed_units() == ""


OPERATOR_BEFORE = {
    ("README.md", "ssh root@hv1 mkdir"): "hatchery client certificate hv1 hv1-certificate",
    ("docs/security.md", "hatchery client nvme"): (
        "ssh root@hv1 'mkdir -p /etc/nvme; nvme gen-hostnqn >/etc/nvme/hostnqn'; hatchery clone detach web"
    ),
    ("ansible/README.md", "ansible-galaxy"): '"$CHECKOUT"/script/collection --output .',
}


def test_the_commands_for_the_operator_do_what_they_say(shop: Workshop, tmp_path: Path) -> None:
    forwarded = f"{shop.folder}/box.sock"
    changes = {
        "/run/hatchery-box.sock": forwarded,
        # It would never end. Without news there is a comment after a while.
        "http://hatchery/v1/events": "http://hatchery/v1/events | grep -m1 . || [ ${PIPESTATUS[1]} = 0 ]",
        "-i INVENTORY": "-i ansible/inventories/mine",
    }
    small_bundle(tmp_path, "0.2.0", shop.site.vm.key.private).rename(shop.folder / "hatchery_0.2.0")
    story = Story(Place.OPERATOR, OPERATOR_BEFORE, changes, once=True)
    said: dict[str, str] = {}
    wrong: list[str] = []
    try:
        for page in story.pages():
            done = shop.run(story.script(page))
            said.update(printed(done.stdout))
            if done.returncode:
                wrong.append(f"{page} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr}")
        assert not wrong, "\n".join(wrong)
        keys = shop.site.vm.ssh(["ls", "/etc/pki/libvirt-nbd"]).stdout.split()
        with shop.site.api() as api:
            found = api.clone("web").nvme
    finally:
        shop.runner.run(["pkill", "-f", f"{forwarded}:/run/hatchery/api.sock"], check=False)
        shop.run("hatchery clone detach web --force; ssh root@hv1 rm -rf /etc/pki/libvirt-nbd")
    assert story.idle() == []
    assert keys == ["ca-cert.pem", "client-cert.pem", "client-key.pem"]
    assert found is not None
    for command in (command for of in story.pages().values() for command in of):
        if "ansible/deploy.yml" in command.text:
            assert re.search(r"^box +: ok=\d+ +changed=0 +unreachable=0 +failed=0", said[command.where], re.MULTILINE)
    assert (shop.folder / "hatchery-backup.tar").stat().st_size > 0


BUILDER_BEFORE = {("docs/security.md", "script/image keys"): "export HATCHERY_SECURE_BOOT=$FOLDER/keys"}


def test_the_commands_that_build_do_what_they_say() -> None:
    """With what was built before, where there is something; tests/appliance/test_written_disk.py boots such a disk."""
    folder = Path(tempfile.mkdtemp(prefix="hatchery-test-", dir="/var/tmp"))
    runner = Runner()
    changes = {
        "CHECKOUT hatchery && cd hatchery": f"{ROOT} {folder}/hatchery && cd {folder}/hatchery",
        "~/.ssh/id_ed25519.pub": f"{Key.create(folder, runner).private}.pub",
        "/dev/disk/by-id/usb-SYSTEM-DISK": f"$(mktemp -u {folder}/disk-XXXX)",
        "/dev/disk/by-id/DISK": f"$(mktemp -u {folder}/disk-XXXX)",
    }
    story = Story(Place.BUILDER, BUILDER_BEFORE, changes, once=True)
    try:
        for page in story.pages():
            script = f"cd {shlex.quote(str(ROOT))}; FOLDER={folder}\n{story.script(page)}"
            done = runner.run(["bash", "-c", script], timeout=3600, check=False)
            assert done.returncode == 0, f"{page}:\n{done.stdout}{done.stderr}"
        assert len(list(folder.glob("disk-*"))) == 3
        assert (folder / "keys/mkosi.key").exists()
        assert (folder / "hatchery/README.md").exists()
    finally:
        shutil.rmtree(folder)
    assert story.idle() == []


def test_the_commands_that_measure_do_what_they_say(shop: Workshop) -> None:
    """Fewer guests: each boot takes minutes where there is no KVM."""
    story = Story(Place.MEASURED, changes={"--runs 3": "--runs 1", "--clones 20": "--clones 2"})
    for page in story.pages():
        done = shop.run(story.script(page), timeout=7200)
        assert done.returncode == 0, done.stdout + done.stderr
    assert story.idle() == []
    assert (shop.folder / "boots.html").stat().st_size > 0
