"""The status page in a real browser: on a wide screen and a phone, by day and night, by keyboard, without scripts."""

from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from appliance.errors import NotReady
from tests.page.appliance import Shown
from tests.page.browser import Tab

SCREENS = {"wide": (1280, 900), "phone": (390, 844)}
"""Width and height in CSS pixels."""

INK = """(canvas) => {
    const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return new Set(pixels).size;
}"""
"""How many colours a canvas shows: 1 when it is empty."""

LUMINANCE = """(name) => {
    const style = getComputedStyle(document.body)[name].match(/[0-9]+/g).map(Number);
    return style[0] + style[1] + style[2];
}"""


def healthy(tab: Tab, url: str) -> None:
    """No script failed, nothing was refused, and nobody else was asked for anything."""
    assert tab.complaints == []
    assert {urlsplit(each).netloc for each in tab.asked if not each.startswith("data:")} == {urlsplit(url).netloc}


def drawn(tab: Tab) -> None:
    """Wait until there were two looks, and all charts are there."""
    tab.until("document.getElementById('live').hidden === false")
    tab.until("document.querySelectorAll('#rates canvas').length === 1")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_it_is_drawn_on_every_screen(appliance: Shown, tab: Tab, pictures: Path, screen: str, dark: bool) -> None:
    width, height = SCREENS[screen]
    tab.show(width, height, dark=dark)
    tab.open(appliance.url)
    drawn(tab)
    for place in ("#rates", "[data-boots='debian-13@1']"):
        assert tab.run(f"({INK})(document.querySelector(`{place} canvas`))") > 5, place
    assert tab.run("document.querySelectorAll('#heats canvas').length") == 2
    tab.until(f"[...document.querySelectorAll('#heats canvas')].every((each) => ({INK})(each) > 2)")
    assert tab.run("document.documentElement.scrollWidth") <= width, "it is wider than the screen"
    ink, paper = tab.run(f"({LUMINANCE})('color')"), tab.run(f"({LUMINANCE})('backgroundColor')")
    assert (ink > paper) == dark
    assert len(tab.picture(pictures / f"{screen}-{'dark' if dark else 'light'}.png")) > 20_000
    healthy(tab, appliance.url)


def test_without_scripts_all_can_be_read(appliance: Shown, tab: Tab, pictures: Path) -> None:
    tab.show(*SCREENS["wide"], scripts=False)
    tab.open(appliance.url)
    tab.picture(pictures / "no-scripts.png")
    tab.show(*SCREENS["wide"])
    shown = tab.run("document.body.innerText")
    for words in ("debian-13@1", "92 % full", "Do: remove ephemeral clones", "prefetched", "hatchery-backend", "hv1"):
        assert words in shown, words
    assert tab.run("document.getElementById('live').hidden")
    healthy(tab, appliance.url)


def test_a_keyboard_reaches_everything_and_stays_where_it_is(appliance: Shown, tab: Tab) -> None:
    tab.show(*SCREENS["phone"])
    tab.open(appliance.url)
    tab.until("document.getElementById('live').hidden === false")
    reached = []
    for _ in range(20):
        tab.press("Tab")
        now = tab.run("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()")
        if now in reached or tab.run("document.activeElement === document.body"):
            break
        reached.append(now)
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") != "none", f"{now}: not seen"
    assert {"metrics", "Templates", "Latencies of the disks", "Clients"} <= set(reached), reached
    tab.run("document.querySelector('[aria-label=Templates]').focus()")
    assert tab.run("document.activeElement.scrollWidth > document.activeElement.clientWidth"), "there is more to see"
    tab.press("ArrowRight")
    tab.until("document.activeElement.scrollLeft > 0")
    tab.run("window.before = document.activeElement")
    tab.until("window.before !== document.querySelector('[aria-label=Templates]')")
    assert tab.run("document.activeElement.getAttribute('aria-label')") == "Templates", "it was renewed meanwhile"
    assert tab.run("document.activeElement.scrollLeft") > 0
    healthy(tab, appliance.url)


def test_what_changes_is_shown_and_silence_is_said(appliance: Shown, tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    tab.show(*SCREENS["wide"])
    tab.open(appliance.url)
    assert tab.run("document.title") == "Hatchery: degraded"
    appliance.box.add_template("arch")
    tab.until("document.body.innerText.includes('arch@1')")
    appliance.box.service.templates.remove("arch")
    tab.until("!document.body.innerText.includes('arch@1')")
    healthy(tab, appliance.url)

    # From here on the browser itself complains of the answers.
    def gone() -> NoReturn:
        raise NotReady("the store is down", why="a test says so")

    monkeypatch.setattr(appliance.box.service, "status", gone)
    tab.until("!document.getElementById('silent').hidden")
    said = tab.run("document.getElementById('silent').textContent")
    assert "the store is down: a test says so" in said
    assert "What is below is older" in said
    assert "debian-13@1" in tab.run("document.body.innerText")
    monkeypatch.undo()
    tab.until("document.getElementById('silent').hidden")
