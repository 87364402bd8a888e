"""The status page in a real browser: on a wide screen and a phone, by day and night, by keyboard, without scripts."""

from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from appliance.errors import NotReady
from tests.page.appliance import PLACES, Shown
from tests.page.browser import Tab
from tests.unit.service_harness import IMAGE

SCREENS = {"wide": (1280, 900), "phone": (390, 844), "small": (360, 740)}
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


CONTRAST = """(selector) => {
    const light = (text) => {
        const parts = text.match(/[0-9.]+/g).slice(0, 3).map((part) => part / 255);
        const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        const found = getComputedStyle(element).backgroundColor;
        return /, 0\\)$|^transparent$/.test(found) ? ground(element.parentElement) : found;
    };
    const found = [...document.querySelectorAll(selector)].filter((each) => each.textContent.trim());
    return Math.min(...found.map((each) => {
        const both = [light(getComputedStyle(each).color), light(ground(each))].sort((a, b) => b - a);
        return (both[0] + 0.05) / (both[1] + 0.05);
    }));
}"""
"""The weakest contrast of text with what is behind it, as WCAG 2 has it: 4.5 is what one can read."""


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
    for text in (".soft", ".health", "td", "th", "a", "summary"):
        assert tab.run(f"({CONTRAST})('{text}')") >= 4.5, text
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
    for _ in range(40):
        tab.press("Tab")
        now = tab.run("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()")
        if now in reached or tab.run("document.activeElement === document.body"):
            break
        reached.append(now)
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") != "none", f"{now}: not seen"
    charts = {"Bytes a second, since this page was opened", "The same in numbers"}
    assert {"metrics", "Templates", "Latencies of the disks", "Clients", *charts} <= set(reached), reached
    assert any(name.startswith("Median seconds of the last 6 measurements") for name in reached), reached
    assert sum(name.startswith("Latencies of ubd") for name in reached) == 2, reached
    tab.run("document.querySelector('[aria-label=Templates]').focus()")
    assert tab.run("document.activeElement.scrollWidth > document.activeElement.clientWidth"), "there is more to see"
    tab.press("ArrowRight")
    tab.until("document.activeElement.scrollLeft > 0")
    tab.run("window.before = document.activeElement")
    tab.until("window.before !== document.querySelector('[aria-label=Templates]')")
    assert tab.run("document.activeElement.getAttribute('aria-label')") == "Templates", "it was renewed meanwhile"
    assert tab.run("document.activeElement.scrollLeft") > 0
    healthy(tab, appliance.url)


VALUE = "document.activeElement.getAttribute('aria-valuetext')"


def test_arrow_keys_go_through_a_chart_and_say_what_is_there(appliance: Shown, tab: Tab) -> None:
    tab.show(*SCREENS["small"])
    tab.open(appliance.url)
    drawn(tab)
    tab.run("document.querySelector(`[data-boots='debian-13@1']`).focus()")
    assert tab.run("document.activeElement.getAttribute('role')") == "slider"
    assert "cold 51.9 s, prefetched 9.8 s, warm 9.3 s" in tab.run(VALUE), "the newest, before a key was pressed"
    tab.press("Home")
    assert "cold 61.0 s, prefetched 11.5 s, warm 11.0 s" in tab.run(VALUE)
    tab.press("ArrowRight")
    assert "cold 73.2 s" in tab.run(VALUE)
    assert "cold 73.2 s" in tab.run("document.activeElement.nextElementSibling.textContent"), "it can be seen, too"
    assert "73.2 s" in tab.run("document.activeElement.querySelector('.u-legend').textContent"), (
        "the chart's own cursor"
    )
    tab.run("window.before = document.activeElement")
    tab.until("window.before !== document.querySelector(`[data-boots='debian-13@1']`)")
    tab.until("document.activeElement.dataset.boots === 'debian-13@1'")
    tab.until(f"({VALUE} || '').includes('cold 73.2 s')")
    tab.press("ArrowLeft")
    tab.press("ArrowLeft")
    assert "cold 61.0 s" in tab.run(VALUE), "before the first there is none"
    tab.press("End")
    assert "cold 51.9 s" in tab.run(VALUE)

    tab.until("document.querySelector('#rates').getAttribute('aria-valuemax') > 2")
    tab.run("document.querySelector('#rates').focus()")
    tab.press("Home")
    assert " clones " in tab.run(VALUE)
    assert "MiB/s" in tab.run(VALUE)
    tab.run("document.querySelector('#heats canvas').focus()")
    plain = tab.run("document.activeElement.toDataURL()")
    tab.press("Home")
    assert "8000 within 64 µs" in tab.run(VALUE)
    assert tab.run("document.activeElement.toDataURL()") != plain, "where it is can be seen"
    healthy(tab, appliance.url)


def test_the_store_is_shown_as_bars_and_templates_with_their_clones_and_boot_sets(appliance: Shown, tab: Tab) -> None:
    tab.show(*SCREENS["wide"])
    tab.open(appliance.url)
    bars = tab.run(
        "Object.fromEntries([...document.querySelectorAll('meter')].map("
        "(each) => [each.parentElement.firstChild.textContent.trim(), [each.value, each.closest('.box').innerText]]))"
    )
    assert bars["durable pool, data"][0] == 62.5
    assert "5.0 TiB of 8.0 TiB, 62.5 %" in bars["durable pool, data"][1]
    assert bars["fast pool, data"][0] == 91.7
    assert bars["cache, hits"][0] == 98
    assert bars["cache, not yet on the disks"][0] == 8
    assert tab.run("document.querySelector('meter').clientWidth") > 100
    share = (
        "(ref) => { const row = [...document.querySelectorAll('[aria-label=Templates] tr')].find("
        "(each) => each.cells[0].innerText.startsWith(ref)); return [row.cells[2].innerText.trim(),"
        " row.querySelector('rect').getBoundingClientRect().width"
        " / row.querySelector('.share').getBoundingClientRect().width]; }"
    )
    assert tab.run(f"({share})('debian-13@1')") == ["40", pytest.approx(1)]
    words, width = tab.run(f"({share})('ubuntu-26.04')")
    assert words == "7"
    assert 0.16 < width < 0.18, "7 of 40"
    assert tab.run(f"({share})('windows-2025')") == ["0", 0]

    found = tab.run(
        "[...document.querySelectorAll('svg.map')].map((each) => [each.getAttribute('aria-label'),"
        " [...each.children].map((cell) => [+cell.getAttribute('x'), cell.getBoundingClientRect().width,"
        " getComputedStyle(cell).fill])])"
    )
    [[label, cells]] = found
    length = len(IMAGE) / 240
    assert "from 0 B to" in label
    expected = {
        int(at) for begin, count in PLACES for at in range(int(begin // length), int((begin + count - 1) // length) + 1)
    }
    assert {x for x, _, _ in cells} == expected, "where the boot set lies"
    assert all(width > 0 for _, width, _ in cells)
    assert len({fill for _, _, fill in cells}) > 1, "darker is more"
    healthy(tab, appliance.url)


def test_latencies_can_be_read_as_numbers_with_the_keyboard_alone(appliance: Shown, tab: Tab) -> None:
    tab.show(*SCREENS["small"])
    tab.open(appliance.url)
    tab.run("document.querySelector('summary').focus()")
    tab.press("Enter")
    assert tab.run("document.querySelector('details').open")
    assert "ubdb backend" in tab.run("document.querySelector('details').innerText")
    numbers = tab.run("[...document.querySelectorAll('details td')].map((each) => each.innerText)")
    assert any(text.endswith("00") for text in numbers), numbers
    tab.run("window.before = document.querySelector('details')")
    tab.until("window.before !== document.querySelector('details')")
    assert tab.run("document.querySelector('details').open"), "it was renewed meanwhile"
    assert tab.run("document.activeElement === document.querySelector('summary')")
    assert tab.run("document.documentElement.scrollWidth") <= SCREENS["small"][0]
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
