"""The page in a real browser: drop, choose, hear, by hand and by keyboard, and when things fail."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import (
    HEARD,
    ROWS,
    SHOWN,
    WAIT_MS,
    contrast,
    drop,
    held,
    listening,
    opened,
    says,
    until,
    wait_for,
)
from test_serve import HOSTILE, model, service, wav  # noqa: F401 - fixtures

pytest.importorskip("uvicorn", reason="pip install 'phalar[serve]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

CHOSEN = """async (window_s) => {
    const { Waveform } = await import("/waveform.js");
    const canvas = document.createElement("canvas");
    canvas.style.width = "1000px";
    document.body.append(canvas);
    canvas.setPointerCapture = () => {};
    const wave = new Waveform(canvas, document.createElement("p"), () => {});
    wave.show({ seconds: 100, peaks: [1] }, window_s);
    const left = canvas.getBoundingClientRect().left;
    return [0, 3.68, 80].map((drawn_s) => {
        for (const [type, at_s] of [["down", 0], ["move", drawn_s], ["up", drawn_s]])
            canvas.dispatchEvent(new PointerEvent(`pointer${type}`, { clientX: left + 10 * at_s }));
        return wave.moment.seconds;
    });
}"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path; `apt install chromium`"),
]


@pytest.fixture(scope="module")
def address(service) -> Iterator[str]:  # noqa: F811
    with listening(service) as (at, _):
        yield at


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        yield started
        started.close()


@pytest.fixture
def mix(tmp_path) -> Path:
    path = tmp_path / "mix.wav"
    path.write_bytes(wav(4))
    return path


def test_drop_choose_and_hear_by_keyboard(browser, address) -> None:
    page = opened(browser, address)
    drop(page, "mix.wav", wav(4))
    rows = page.locator(ROWS)
    rows.nth(3).wait_for()
    assert rows.nth(0).get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowDown")
    assert rows.nth(1).get_attribute("aria-selected") == "true"
    page.keyboard.press(" ")
    until(page, HEARD)
    first = page.evaluate("document.getElementById('audio').src")
    assert page.evaluate("document.getElementById('audio').duration") == pytest.approx(1, abs=0.01)
    page.keyboard.press("ArrowUp")
    until(page, "document.getElementById('audio').src.startsWith('blob:')")
    assert page.evaluate("document.getElementById('audio').src") != first
    # A name is text, whatever it holds.
    assert HOSTILE in rows.locator(".name").all_text_contents()
    assert page.locator("#found img").count() == 0
    with page.expect_download() as download:
        rows.nth(0).locator(".get").click()
    assert download.value.path().stat().st_size == len(wav(3))
    # A reader of screens finds rows, of which one is selected and one is on the way of Tab.
    assert page.get_by_role("row", selected=True).count() == 1
    assert page.get_by_role("grid", name="What fits").locator("[tabindex='0']").count() == 2
    assert page.locator("[role=option] a").count() == 0
    page.evaluate(
        """() => document.addEventListener("dragstart", (event) => {
            window.dragged = event.dataTransfer.getData("DownloadURL");
        })"""
    )
    name = rows.nth(2).locator(".name")
    name.hover()
    page.mouse.down()
    page.mouse.move(300, 40, steps=4)
    page.mouse.up()
    kind, file, url = page.evaluate("window.dragged").split(":", 2)
    assert (kind, file) == ("application/octet-stream", name.text_content())
    assert page.request.get(url).body() == page.request.get(f"{url}?download=true").body()
    assert page.complaints == []


def test_sound_and_keys_obey_the_last_hand(browser, address, mix) -> None:
    page = opened(browser, address)
    # So slow that no sound ends while it is looked at.
    page.evaluate("document.getElementById('audio').defaultPlaybackRate = 0.0625")
    page.set_input_files("#files", mix)
    rows, selected = page.locator(ROWS), page.locator(f"{ROWS}[aria-selected=true]")
    rows.nth(3).wait_for()
    page.focus("#canvas")
    page.keyboard.press("End")
    assert page.get_attribute("#canvas", "aria-valuetext") == "3.0 to 4.0 s of 4.0 s"
    for key in ["Home", "ArrowRight", *["Shift+ArrowRight"] * 2, "Alt+ArrowRight"]:
        page.keyboard.press(key)
    assert page.get_attribute("#canvas", "aria-valuetext") == "0.5 to 2.5 s of 4.0 s"
    # What was found for another moment is heard with that one.
    page.keyboard.press(" ")
    until(page, HEARD)
    assert page.evaluate("document.getElementById('audio').duration") == pytest.approx(1, abs=0.01)
    with page.expect_response("**/api/search"):
        page.keyboard.press("Enter")
    rows.nth(3).wait_for()
    assert page.evaluate("document.getElementById('audio').networkState") == 0
    assert page.evaluate("document.activeElement.id") == "canvas"

    page.keyboard.press(" ")
    until(page, HEARD)
    assert page.evaluate("document.getElementById('audio').duration") == pytest.approx(2, abs=0.01)
    page.evaluate("document.getElementById('audio').currentTime = 1.1")
    page.keyboard.press(" ")
    until(page, "document.getElementById('audio').paused")
    page.keyboard.press(" ")
    until(page, HEARD)
    assert page.evaluate("document.getElementById('audio').currentTime") >= 1.1

    with held(page, "/api/audition") as auditions:
        page.keyboard.press("ArrowDown")
        wait_for(page, 1, auditions)
        assert page.evaluate("document.getElementById('audio').paused")
        page.keyboard.press("ArrowDown")
        wait_for(page, 2, auditions)
    until(page, HEARD)
    assert selected.locator(".place").text_content() == "3"
    page.evaluate("document.getElementById('audio').currentTime = 1.1")
    before = page.evaluate("document.getElementById('audio').src")
    page.get_by_text("alone").click()
    until(page, f"document.getElementById('audio').src !== '{before}' && {HEARD}")
    assert page.evaluate("document.getElementById('audio').currentTime") >= 1.1
    page.keyboard.press(" ")
    until(page, "document.getElementById('audio').paused")
    assert page.is_checked("#alone")
    page.keyboard.press("ArrowUp")
    assert selected.locator(".place").text_content() == "2"
    page.keyboard.press(" ")
    until(page, HEARD)
    # The browser's own control, which keeps keys to itself, does not keep them after a click.
    page.click("#audio", position={"x": 20, "y": 20})
    until(page, "document.getElementById('audio').paused")
    page.keyboard.press(" ")
    until(page, HEARD)
    page.keyboard.press("ArrowUp")
    assert selected.locator(".place").text_content() == "1"
    until(page, HEARD)
    page.keyboard.press("Enter")
    until(page, "document.getElementById('audio').paused")
    assert page.text_content("#state") == "4 found, best first"
    assert page.complaints == []


def test_what_is_asked_for_last_wins(browser, address) -> None:
    page = opened(browser, address)
    given_up = []
    page.on("requestfailed", lambda request: given_up.append(request.url.rpartition("/")[2]))
    rows = page.locator(ROWS)
    with held(page, "/api/waveform") as waveforms:
        drop(page, "first.wav", wav(4))
        wait_for(page, 1, waveforms)
        drop(page, "second.wav", wav(4))
        wait_for(page, 2, waveforms)
        # The later one is answered first.
        waveforms.pop().continue_()
        rows.nth(3).wait_for()
    page.wait_for_timeout(300)
    assert page.text_content("#hint") == "second.wav"
    assert given_up == ["waveform"]

    with held(page, "/api/search") as searches:
        page.focus("#canvas")
        for count in range(1, 4):
            page.keyboard.press("Enter")
            wait_for(page, count, searches)
        wait_for(page, 3, given_up)
        # Who types while a search goes on is not disturbed by what it finds.
        page.focus("#exclude")
        page.keyboard.type("dru")
    rows.nth(3).wait_for()
    page.keyboard.type("ms and loops")
    assert page.input_value("#exclude") == "drums and loops"
    assert page.locator("#state.wrong").count() == 0
    assert given_up == ["waveform", "search", "search"]

    with held(page, "/api/search") as searches:
        page.click("#search")
        wait_for(page, 1, searches)
        drop(page, "page.wav", b"<html>")
        says(page, "page.wav: cannot be decoded")
    assert page.is_enabled("#search")
    assert page.complaints == []


def test_a_moment_is_chosen_on_the_waveform(browser, address, mix) -> None:
    page = opened(browser, address)
    page.set_input_files("#files", mix)
    page.locator(ROWS).nth(3).wait_for()
    box = page.locator("#canvas").bounding_box()
    with page.expect_response("**/api/search") as answer:
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"], box["y"] + 20)
        page.mouse.up()
    assert answer.value.status == 200
    assert page.locator("#moment").text_content().startswith("2.0 to 4.0 s of 4.0 s")
    page.select_option("#instrument", "bass")
    with page.expect_response("**/api/search"):
        page.click("#search")
    page.locator(ROWS).nth(0).wait_for()
    assert page.locator("#found .name").all_text_contents() == ["bass.wav"]
    # Whatever the windows of an index are, a moment is as long as one.
    for window_s in (2.24, 45):
        seconds = page.evaluate(CHOSEN, window_s)
        assert seconds == [window_s, max(window_s, 3.7), max(window_s, 30)]
    assert page.complaints == []


def test_what_goes_wrong_is_said(browser, service, tmp_path) -> None:  # noqa: F811
    from phalar.serve.app import MOST_FILES

    mix = tmp_path / "mix.wav"
    mix.write_bytes(wav(6))
    with listening(service) as (address, stop):
        page = opened(browser, address)
        drop(page, "page.wav", b"<html>")
        says(page, "page.wav: cannot be decoded")
        assert page.locator("#state.wrong").count() == 1
        large = {"name": "large.wav", "mimeType": "audio/wav", "buffer": bytes(2 << 20)}
        page.set_input_files("#files", large)
        says(page, "larger than")
        drop(page, "part.wav", wav(1), copies=MOST_FILES + 1)
        says(page, f"{MOST_FILES + 1} files: at most {MOST_FILES} are summed")
        assert page.is_hidden("#wave")
        drop(page, "part.wav", wav(1), copies=MOST_FILES)
        page.locator(ROWS).nth(3).wait_for()
        page.set_input_files("#files", mix)
        until(page, "document.getElementById('hint').textContent === 'mix.wav'")
        page.locator(ROWS).nth(3).wait_for()
        page.focus("#canvas")
        for _ in range(10):
            page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Enter")
        says(page, "No file is as long as this moment of 6 s. Choose a shorter one.")
        # A workstation has written its mix again.
        mix.write_bytes(wav(5))
        page.click("#search")
        says(page, "mix.wav has changed on disk since you chose it, or is gone. Drop it again.")
        page.set_input_files("#files", mix)
        page.locator(ROWS).nth(3).wait_for()
        stop()
        page.click("#search")
        says(page, "The server does not answer. Is `phalar serve` still running?")
        assert page.is_enabled("#search")
        assert page.complaints == []


def test_every_look_shows_what_is_selected(browser, address, mix, tmp_path) -> None:
    page = opened(browser, address)

    file = {"name": "mix.wav", "mimeType": "audio/wav", "buffer": mix.read_bytes()}
    found = page.request.post(f"{address}/api/search", multipart={"files": file}).json()
    found += [{**each, "name": f"{'long ' * 9}{each['name']}"} for each in found]
    many = [found[place % len(found)] for place in range(20)]
    page.route("**/api/search", lambda route: route.fulfill(json=many))
    grounds = {}
    for look, width in [("light", 1100), ("dark", 1100), ("light", 360), ("dark", 360)]:
        page.emulate_media(color_scheme=look)
        page.set_viewport_size({"width": width, "height": 780})
        page.set_input_files("#files", mix)
        page.locator(ROWS).nth(19).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for key in ["ArrowDown"] * 19 + ["ArrowUp"] * 19:
            page.keyboard.press(key)
            assert page.evaluate(SHOWN), f"{look} {width}"
            if page.locator(ROWS).nth(9).get_attribute("aria-selected") == "true":
                page.screenshot(path=tmp_path / f"{look}-{width}.png")
        grounds[look] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        for control in ["#drop", "#instrument", "#exclude", "#play"]:
            for ground in ["body", "#found"]:
                found = contrast(page, (control, "borderColor"), (ground, "backgroundColor"))
                assert found >= 3, f"{control} on {ground}, {look}"
    assert grounds["light"] != grounds["dark"]
    assert page.complaints == []


def test_the_api_is_described_without_a_network(browser, address) -> None:
    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/docs")
    page.get_by_text("/api/search", exact=False).first.wait_for(state="visible")
    assert f"{address}/api/openapi.json" in asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
