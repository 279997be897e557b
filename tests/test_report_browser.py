"""The report in a real browser: from disk, without a network, light and dark, on a phone."""

from __future__ import annotations

import shutil

import pytest
from test_evaluate import line  # noqa: F401 - the fixture

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1200, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path; `apt install chromium`"),
]


def test_report_opens_without_network_or_errors(line, tmp_path) -> None:  # noqa: F811
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    _, paths = line
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        grounds = {}
        for look, settings in LOOKS.items():
            complaints, requests = [], []
            context = browser.new_context(**settings, offline=True)
            page = context.new_page()
            page.on("console", lambda message: complaints.append(message.text))  # noqa: B023
            page.on("pageerror", lambda error: complaints.append(str(error)))  # noqa: B023
            page.on("request", lambda request: requests.append(request.url))  # noqa: B023
            page.goto((paths.evaluate / "report.html").as_uri())
            assert complaints == []
            assert [url for url in requests if not url.startswith(("data:", "file:"))] == []
            # What is too wide scrolls by itself: the page never does.
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= settings["viewport"]["width"], look
            grounds[look] = page.evaluate("getComputedStyle(document.body).backgroundColor")
            sound = page.locator("audio").first
            length_s = sound.evaluate(
                "s => new Promise(ok => { s.onloadedmetadata = () => ok(s.duration); s.load() })"
            )
            assert length_s == pytest.approx(1.5, abs=0.01)
            assert page.screenshot(full_page=True, path=tmp_path / f"{look}.png")
        browser.close()
    assert grounds["light"] == grounds["phone"] != grounds["dark"]
