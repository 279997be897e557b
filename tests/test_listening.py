"""The listening test's recipe on small cases worked out by hand."""

import json

import numpy as np
import pytest

from phalar import cli
from phalar.evaluate import listening

DRAW = {"resamples": 200, "seed": 1}
SYSTEMS = ("og", "sac", "stage", "moises")


def write(folder, ratings, scores) -> None:
    """A listener's rows are (instrument, song, ratings by system), a model's the same."""
    (folder / "user_ratings").mkdir()
    for number, rows in enumerate(ratings, start=1):
        made = [
            {
                "trial_index": place,
                "folder": song,
                "type": instrument,
                "scores": dict(zip(SYSTEMS, values, strict=False)),
                "model_order": list(SYSTEMS),
            }
            for place, (instrument, song, values) in enumerate(rows)
        ]
        (folder / f"user_ratings/results_{number:02d}.json").write_text(json.dumps(made))
    for name, rows in scores.items():
        made = {}
        for instrument, song, values in rows:
            systems = dict(zip(("gt", *SYSTEMS[1:]), values, strict=False))
            made.setdefault(instrument, []).append({"song": song, **systems})
        (folder / f"results_{name}.json").write_text(json.dumps(made))


def test_ratings_are_standardised_per_listener_and_instrument_then_averaged(tmp_path) -> None:
    strict = [("bass", "x", [1, 3]), ("drums", "x", [2, 4])]
    # Mean 4 and deviation 1 for bass; all drums alike say nothing.
    kind = [("bass", "x", [3, 5]), ("bass", "y", [5, 3]), ("drums", "x", [5, 5])]
    write(tmp_path, [strict, kind], {})
    found = listening.read_ratings(tmp_path / "user_ratings")
    means = dict(zip(found.items, found.mean.tolist(), strict=True))
    assert means == pytest.approx(
        {
            ("bass", "x", "gt"): -1,
            ("bass", "x", "sac"): 1,
            ("bass", "y", "gt"): 1,
            ("bass", "y", "sac"): -1,
            ("drums", "x", "gt"): (-1 + 0) / 2,
            ("drums", "x", "sac"): (1 + 0) / 2,
        }
    )
    assert (found.ratings, found.listeners) == (10, 2)


def test_correlation_worked_out_by_hand(tmp_path) -> None:
    rated = [("bass", "x", [5, 1, 3, 3]), ("drums", "x", [4, 2, 3, 3])]
    # Song y is not rated, but its scores count when bass is standardised: mean 0, deviation 2.
    scored = [("bass", "x", [2, -2, 2, -2]), ("bass", "y", [2, -2, 2, -2])]
    scored.append(("drums", "x", [1, -1, 1, -1]))
    write(tmp_path, [rated], {"made": scored})
    found = listening.correlate(tmp_path, **DRAW)
    # Ratings become (sqrt 2, -sqrt 2, 0, 0) twice, scores (1, -1, 1, -1) twice.
    assert found["models"]["made"]["pearson"] == pytest.approx(np.sqrt(2) / 2)
    assert found["original"]["pearson"] == pytest.approx(np.sqrt(2) / np.sqrt(3))
    # Places of the ratings: 7.5, 1.5, 4.5, 4.5; of the scores: 6.5, 2.5, 6.5, 2.5.
    assert found["models"]["made"]["spearman"] == pytest.approx(12 / np.sqrt(18 * 16))
    # Without the true stems: ratings (-sqrt 2, 0, 0), scores (-1, 1, -1).
    assert found["models"]["made"]["generated"]["pearson"] == pytest.approx(0.5)
    assert (found["items"], found["songs"]) == (8, 1)
    assert (found["models"]["made"]["low"], found["models"]["made"]["high"]) == (-1, 1)


def test_a_model_that_agrees_with_everybody_reaches_one(tmp_path) -> None:
    rng = np.random.default_rng(5)
    songs = [f"song{number}" for number in range(8)]
    taste = {(kind, song): rng.permutation(4) + 1.0 for kind in ("bass", "drums") for song in songs}
    rows = [(kind, song, (1 + own).tolist()) for (kind, song), own in taste.items()]
    noise = [(kind, song, rng.normal(size=4).tolist()) for kind, song in taste]
    write(tmp_path, [rows, rows], {"agrees": rows, "noise": noise})
    found = listening.correlate(tmp_path, **DRAW)["models"]
    assert found["agrees"]["pearson"] == pytest.approx(1)
    assert found["agrees"]["spearman"] == pytest.approx(1)
    assert found["agrees"]["low"] == pytest.approx(1)
    assert found["noise"]["low"] < 0 < found["noise"]["high"]


def test_what_does_not_fit_is_named(tmp_path, capsys) -> None:
    def message(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["listening", *arguments])
        return int(ended.value.code), capsys.readouterr().err

    assert message(str(tmp_path / "away"))[0] == 2
    assert "put the listeners' files there" in message(str(tmp_path))[1]
    write(tmp_path, [[("bass", "x", [5, 1])]], {"made": [("bass", "z", [1, 2])]})
    code, text = message(str(tmp_path))
    assert code == 1
    assert "made.json: 2 of 2 rated items have no score, the first is bass, x, gt;" in text
    (tmp_path / "results_made.json").write_text('{"bass": [{"song": "x", "gt": null}]}')
    assert "bass, x, gt is None, must be a finite number" in message(str(tmp_path))[1]
    (tmp_path / "results_made.json").write_text("{")
    assert "results_made.json: cannot be read as JSON" in message(str(tmp_path))[1]
    (tmp_path / "user_ratings/results_01.json").write_text('[{"folder": "x"}]')
    assert "row 0 has no 'type'" in message(str(tmp_path))[1]


def test_the_command_prints_json_and_a_table(tmp_path, capsys) -> None:
    rows = [("bass", song, [5, 1, 2, 3]) for song in "xyz"]
    write(tmp_path, [rows], {"made": rows})
    with pytest.raises(SystemExit) as ended:
        cli.main(["listening", str(tmp_path), "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"]["made"].keys() == {"pearson", "spearman", "low", "high", "generated"}
    with pytest.raises(SystemExit):
        cli.main(["listening", str(tmp_path)])
    assert "12 ratings by 1 people: 12 stems, 3 songs" in capsys.readouterr().out
