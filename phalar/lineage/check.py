"""One link of a chain that was checked: as recorded, wrong, or impossible to check here."""

from __future__ import annotations

from dataclasses import dataclass

RIGHT, WRONG, UNKNOWN = "right", "wrong", "cannot be checked"


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of one link."""

    link: str
    """Such as `shards` or `MLflow run`."""
    state: str
    """`RIGHT`, `WRONG` or `UNKNOWN`."""
    what: str
    """What was compared, or what is wrong, or why it cannot be checked."""


def right(link: str, what: str) -> Check:
    """Give a link that is as recorded."""
    return Check(link, RIGHT, what)


def wrong(link: str, what: str) -> Check:
    """Give a link that is broken."""
    return Check(link, WRONG, what)


def unknown(link: str, what: str) -> Check:
    """Give a link that cannot be checked here."""
    return Check(link, UNKNOWN, what)
