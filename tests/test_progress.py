"""Progress without a terminal: few lines, and true ones."""

from __future__ import annotations

from phalar import progress


def test_plain_lines_come_every_ten_seconds_and_at_the_end(monkeypatch, capsys):
    now = iter([100.0, *(100.0 + 4 * k for k in range(1, 6))])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.track(5, "prepare bands", unit="tracks") as tick:
        for _ in range(5):
            tick()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "prepare bands: 3/5 tracks, 0.25/s, 0:08 left",
        "prepare bands: 5/5 tracks, 0.25/s, took 20 s",
    ]


def test_several_units_at_once(capsys):
    with progress.track(4, "scan", unit="pieces") as tick:
        tick(4)
    assert capsys.readouterr().err.startswith("scan: 4/4 pieces, ")
