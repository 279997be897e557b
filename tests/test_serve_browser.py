"""The page in a real browser: drop, choose, hear, by hand and by keyboard, and when things fail."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_serve import HOSTILE, model, service, wav  # noqa: F401 - fixtures

uvicorn = pytest.importorskip("uvicorn", reason="pip install 'phalar[serve]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WAIT_MS = 60_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path; `apt install chromium`"),
]


@pytest.fixture(scope="module")
def address(service) -> Iterator[str]:  # noqa: F811
    from phalar.serve.app import create_app

    config = uvicorn.Config(create_app(service, most_bytes=1 << 20), port=0, log_level="error")
    listening = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


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


def opened(browser, address, **look):
    """Open the page; it must neither complain nor ask another site."""
    page = browser.new_context(**look).new_page()
    page.set_default_timeout(WAIT_MS)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.complaints.append(request.url)
            if not request.url.startswith((address, "data:", "blob:")) else None)  # fmt: skip
    page.goto(address)
    until(page, "document.getElementById('library').textContent.includes('4 files')")
    return page


def until(page, expression: str) -> None:
    """Wait until a page says true; Playwright's own wait needs what the page's policy forbids."""
    for _ in range(WAIT_MS // 100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise TimeoutError(expression)


def drop(page, name: str, content: bytes) -> None:
    """Drop a file onto the page, as a hand does."""
    page.evaluate(
        """([name, bytes]) => {
            const moved = new DataTransfer();
            moved.items.add(new File([new Uint8Array(bytes)], name));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, bubbles: true,
                                                           cancelable: true }));
        }""",
        [name, list(content)],
    )


def test_drop_choose_and_hear_by_keyboard(browser, address) -> None:
    page = opened(browser, address)
    drop(page, "mix.wav", wav(4))
    rows = page.locator("#found li")
    rows.nth(3).wait_for()
    assert rows.nth(0).get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowDown")
    assert rows.nth(1).get_attribute("aria-selected") == "true"
    page.keyboard.press(" ")
    until(page, "!document.getElementById('audio').paused")
    first = page.evaluate("document.getElementById('audio').src")
    assert page.evaluate("document.getElementById('audio').duration") == pytest.approx(1, abs=0.01)
    page.keyboard.press("ArrowUp")
    until(page, f"document.getElementById('audio').src !== '{first}'")
    # A name is text, whatever it holds.
    assert HOSTILE in rows.locator(".name").all_text_contents()
    assert page.locator("#found img").count() == 0
    with page.expect_download() as download:
        rows.nth(0).locator(".get").click()
    assert download.value.path().stat().st_size == len(wav(3))
    assert page.complaints == []


def test_a_moment_is_chosen_on_the_waveform(browser, address, mix) -> None:
    page = opened(browser, address)
    page.set_input_files("#files", mix)
    page.locator("#found li").nth(3).wait_for()
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
    page.locator("#found li").nth(0).wait_for()
    assert page.locator("#found .name").all_text_contents() == ["bass.wav"]
    assert page.complaints == []


def test_what_goes_wrong_is_said(browser, address, mix) -> None:
    page = opened(browser, address)
    state = page.locator("#state.wrong")
    drop(page, "page.wav", b"<html>")
    state.wait_for()
    assert "page.wav: cannot be decoded" in state.text_content()
    large = {"name": "large.wav", "mimeType": "audio/wav", "buffer": bytes(2 << 20)}
    page.set_input_files("#files", large)
    until(page, "document.getElementById('state').textContent.includes('larger than')")
    page.route("**/api/**", lambda route: route.abort())
    page.set_input_files("#files", mix)
    until(page, "document.getElementById('state').textContent.includes('does not answer')")
    assert page.complaints == []


def test_narrow_and_dark(browser, address, mix, tmp_path) -> None:
    grounds = {}
    for look, width in (("light", 1100), ("dark", 1100), ("light", 360)):
        view = {"width": width, "height": 780}
        page = opened(browser, address, color_scheme=look, viewport=view)
        page.set_input_files("#files", mix)
        page.locator("#found li").nth(3).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        grounds[look] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page.screenshot(path=tmp_path / f"{look}-{width}.png")
        assert page.complaints == []
    assert grounds["light"] != grounds["dark"]


def test_the_api_is_described_without_a_network(browser, address) -> None:
    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{address}/docs")
    route = page.get_by_text("/api/search", exact=False).first
    route.wait_for()
    assert route.is_visible()
