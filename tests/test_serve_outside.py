"""A browser apart from the page: at the description of the API, and at a page of another site."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_serve import model, service  # noqa: F401 - fixtures
from test_serve_browser import CHROMIUM, WAIT_MS, address, browser  # noqa: F401 - fixtures

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path; `apt install chromium`"),
]

FILES = {"/api/waveform": 1, "/api/embed": 1, "/api/score": 2, "/api/search": 1, "/api/audition": 1}
"""How many fields for files a route has."""


def test_files_are_chosen_from_the_disk(browser, address) -> None:  # noqa: F811
    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{address}/docs")
    for path, count in FILES.items():
        route = page.locator(".opblock", has=page.locator(f'[data-path="{path}"]'))
        route.locator(".opblock-summary").click()
        route.get_by_role("button", name="Try it out").click()
        for add in route.get_by_role("button", name="Add").all():
            if path in ("/api/search", "/api/audition"):
                add.click()
                break
        assert route.locator("input[type=file]").count() == count, path


def test_another_site_cannot_tell_what_is_in_the_library(
    browser,  # noqa: F811
    address,  # noqa: F811
    service,  # noqa: F811
    tmp_path,
) -> None:
    (tmp_path / "index.html").write_text("<title>another site</title>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    other = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    known = f"/api/audio/{service.searcher.index.entries[0].sha256}"
    loads = """(address) => new Promise((done) => {
        const sound = new Audio(address);
        sound.addEventListener("loadedmetadata", () => done(true));
        sound.addEventListener("error", () => done(false));
    })"""
    page = browser.new_page()
    page.goto(address)
    assert page.evaluate(loads, address + known)
    # Another port is another origin of the same site; another name is another site.
    for name in ("127.0.0.1", "localhost"):
        page.goto(f"http://{name}:{other.server_address[1]}/")
        assert page.title() == "another site"
        assert not page.evaluate(loads, address + known)
    other.shutdown()
    other.server_close()
