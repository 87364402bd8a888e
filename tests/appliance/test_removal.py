"""The end of a store by its own playbook, and a new one after it; with what the console says on the way."""

import pytest

from appliance.wait import until
from tests.appliance.conftest import booted
from tests.appliance.site import BOX, CLIENT, DISKS, NVME, TEMPLATE, Play, Playbook, Site
from tests.appliance.workshop import workshop
from tests.pages import Place, of
from tests.terminal import answered

SERIALS = (NVME.serial, *(disk.serial for disk in DISKS))


def remove(site: Site, serials: tuple[str, ...], *words: str) -> Play:
    """Run the playbook, with the serial numbers that it would ask for."""
    return site.play("-e", f"remove_serials='{' '.join(serials)}'", *words, playbook="remove")


QUESTION = "Serial numbers of all NVMe drives and disks of the store"


def answer(site: Site, serials: tuple[str, ...], *words: str) -> Play:
    """Run it on a terminal, and tell it the serial numbers when it asks for them."""
    playbook = Playbook("remove", site.vm.folder, {BOX: site.variables({})})
    return playbook.answered(QUESTION, " ".join(serials), *words)[BOX]


def console_says(site: Site, words: str) -> None:
    """Wait until the text above the console's prompt has these words."""
    show = ["cat", "/run/issue.d/hatchery.issue"]
    until(lambda: words in site.vm.ssh(show, check=False).stdout, f"{words!r} on the console", deadline=400, interval=2)


@pytest.mark.heavy
def test_a_store_is_removed_by_its_playbook_and_made_again() -> None:
    with booted() as site:
        console_says(site, "not deployed")
        play = site.play()
        assert play.failed == 0, play.said
        console_says(site, "0 of 0 clones exported")
        site.remote_command().get("clone", "create", "web", "--template", TEMPLATE, "--client", CLIENT)
        for serials, words in (
            (SERIALS[1:], "not every drive"),
            ((*SERIALS, "DISK9"), "DISK9 is no serial number"),
            (SERIALS, "clones are attached"),
        ):
            play = remove(site, serials)
            assert (play.failed, play.changed) == (1, 0), play.said
            assert words in " ".join(play.said.split())
        # As somebody types it, who forgot a drive.
        play = answer(site, SERIALS[:-1])
        assert (play.failed, play.changed) == (1, 0), play.said
        assert "not every drive" in " ".join(play.said.split())
        assert site.remote_command().get("status")["health"] == "ok"
        anyway = ("-e", "remove_attached_clones=true")
        play = remove(site, SERIALS, *anyway, "--check", "--diff")
        assert (play.failed, play.changed) == (0, 1), play.said
        assert "-devices = " in play.said, "the diff of the settings is missing"
        assert site.remote_command().get("status")["health"] == "ok"
        play = answer(site, SERIALS, *anyway)
        assert (play.failed, play.changed) == (0, 1), play.said
        assert nothing_is_left(site)
        console_says(site, "not deployed")
        assert site.failed_units() == ""
        for how in (("--check",), ()):
            play = remove(site, SERIALS, *how)
            assert (play.failed, play.changed) == (0, 0), play.said
        play = site.play()
        assert play.failed == 0, play.said
        status = site.remote_command().get("status")
        assert (status["health"], status["problems"]) == ("ok", [])
        as_the_page_says(site)
        assert nothing_is_left(site)


def as_the_page_says(site: Site) -> None:
    """Remove it by the commands of docs/deployment.md, as somebody who answers what he is asked."""
    with workshop(site) as shop:
        done = shop.run(
            "cp -r ansible/inventories/example ansible/inventories/mine; editor ansible/inventories/mine/*/*"
        )
        assert done.returncode == 0, done.stderr
        for command in of(Place.REMOVED):
            said = answered(shop.runner, shop.words(command.text), QUESTION, " ".join(SERIALS), timeout=900)
            assert said.returncode == 0, said.stdout


def nothing_is_left(site: Site) -> bool:
    """Whether neither devices nor settings nor anything on the drives tells of a store."""
    script = (
        'for disk; do wipefs --noheadings "$disk"; done; ls /etc/hatchery/conf.d /dev/mapper; grep ^md /proc/mdstat'
    )
    names = [drive.by_id for drive in (NVME, *DISKS)]
    said = site.vm.ssh(["sh", "-c", script, "sh", *names], check=False).stdout
    return set(said.split()) <= {"/etc/hatchery/conf.d:", "/dev/mapper:", "control"}
