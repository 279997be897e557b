"""The description of the API: in the version that its page reads, which then offers files."""

from collections.abc import Iterator

import pytest
from test_serve import client, model, service  # noqa: F401 - fixtures
from test_serve_browser import WAIT_MS, address, browser  # noqa: F401 - fixtures
from test_serve_browser import pytestmark as in_a_browser

FILES = {"/api/waveform": 1, "/api/embed": 1, "/api/score": 2, "/api/search": 1, "/api/audition": 1}
"""How many fields for files a route has."""


def schemas(part) -> Iterator[dict]:
    if isinstance(part, dict):
        yield part
    for below in (
        part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    ):
        yield from schemas(below)


def test_the_description_is_of_the_version_that_it_says(client) -> None:  # noqa: F811
    described = client.get("/api/openapi.json").json()
    assert described["openapi"] == "3.0.3"
    for schema in schemas(described):
        # All of these are of 3.1.
        assert not schema.keys() & {"contentMediaType", "const", "prefixItems", "$defs"}
        assert schema.get("type") != "null"
        assert not isinstance(schema.get("type"), list)
        assert isinstance(schema.get("exclusiveMinimum", True), bool)
    (form,) = described["paths"]["/api/search"]["post"]["requestBody"]["content"].values()
    fields = described["components"]["schemas"][form["schema"]["$ref"].rsplit("/", 1)[1]]
    files, seconds = fields["properties"]["files"], fields["properties"]["seconds"]
    assert files["items"] == {"type": "string", "format": "binary"}
    assert seconds["description"] == "Its length."
    bounds = {name: seconds[name] for name in ("type", "nullable", "minimum", "maximum")}
    assert bounds == {"type": "number", "nullable": True, "minimum": 0.5, "maximum": 60}


@pytest.mark.browser
@in_a_browser[1]
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
