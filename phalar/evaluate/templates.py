"""Fill the templates of the pages, and write their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def percent(fraction: float) -> str:
    """Write a fraction as percent with one digit, such as `90.3`."""
    return f"{100 * fraction:.1f}"


def p_value(value: float) -> str:
    """Write a p-value, such as `0.012` or `< 0.001`."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def fill(name: str, **shown: Any) -> str:
    """Fill a template of this folder, which knows the filters `percent` and `p_value`.

    Raises
    ------
    jinja2.UndefinedError
        The template shows something that is not given.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "p_value": p_value}
    return templates.get_template(name).render(**shown)
