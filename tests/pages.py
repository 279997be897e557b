"""A served page as a test sees it: opened, dropped upon, held back, looked at."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WAIT_MS = 60_000
ROWS = "#found > *"
HEARD = "!document.getElementById('audio').paused && document.getElementById('audio').duration > 0"
STATE = """(() => {
    const { paused, ended, currentTime, duration } = document.getElementById("audio");
    const chosen = document.querySelector("#found [aria-selected=true] .place")?.textContent;
    return JSON.stringify([chosen, document.activeElement.id, paused, ended, currentTime, duration,
                           document.getElementById("state").textContent]);
})()"""
SHOWN = """(() => {
    const box = (query) => document.querySelector(query).getBoundingClientRect();
    const row = box("#found [aria-selected=true]");
    return row.top >= 0 && row.bottom <= box("#player").top;
})()"""


@contextmanager
def listening(service) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serve until the end, or until what comes with the address is called."""
    import uvicorn

    from phalar.serve.app import create_app

    config = uvicorn.Config(create_app(service, most_bytes=1 << 20), port=0, log_level="error")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join()

    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}", stop
    finally:
        stop()


def opened(browser, address, **look):
    """Open the page; it must neither complain nor ask another site."""
    page = browser.new_context(**look).new_page()
    page.set_default_timeout(WAIT_MS)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.complaints.append(request.url)
            if not request.url.startswith((address, "data:", "blob:")) else None)  # fmt: skip
    # From the start: a browser that is busy lets pass what it is told of late.
    page.held = None
    page.route("**/api/**", lambda route: _route(page, route))
    page.goto(address)
    until(page, "document.getElementById('library').textContent.includes('4 files')")
    return page


def until(page, expression: str) -> None:
    """Wait until a page says true; Playwright's own wait needs what the page's policy forbids."""
    for _ in range(WAIT_MS // 100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise TimeoutError(f"{expression}: {page.text_content('#state')}")


def drop(page, name: str, content: bytes, copies: int = 1) -> None:
    """Drop a file onto the page, as a hand does."""
    page.evaluate(
        """([name, bytes, copies]) => {
            const moved = new DataTransfer();
            for (let copy = 0; copy < copies; copy += 1) {
                moved.items.add(new File([new Uint8Array(bytes)], name));
            }
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, bubbles: true,
                                                           cancelable: true }));
        }""",
        [name, list(content), copies],
    )


def says(page, text: str) -> None:
    until(page, f"document.getElementById('state').textContent.includes({json.dumps(text)})")


@contextmanager
def held(page, path: str) -> Iterator[list]:
    """Hold back what a page asks for; at the end it is let go, also what the page gave up."""
    routes: list = []
    page.held = (path, routes)
    yield routes
    page.held = None
    for route in routes:
        route.continue_()


def _route(page, route) -> None:
    path, routes = page.held or (None, [])
    if path and route.request.url.endswith(path):
        routes.append(route)
    else:
        route.continue_()


def wait_for(page, count: int, things: list) -> None:
    """Wait until so many things have come in."""
    for _ in range(WAIT_MS // 50):
        if len(things) >= count:
            return
        page.wait_for_timeout(50)
    raise TimeoutError(f"{len(things)} of {count}: {page.evaluate(STATE)}")


def contrast(page, *colours: tuple[str, str]) -> float:
    """Give the contrast of two colours of elements, each by selector and property, as WCAG 2."""
    luminances = []
    for selector, name in colours:
        told = page.locator(selector).evaluate(f"(found) => getComputedStyle(found).{name}")
        rgb = [int(part) / 255 for part in re.findall(r"\d+", told)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
                  for part in rgb]  # fmt: skip
        luminances.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)
