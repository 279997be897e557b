"""The listening test's recipe on small cases worked out by hand."""

import json

import numpy as np
import pytest
import soundfile
import torch

import phalar
from phalar import cli
from phalar.evaluate import listening
from phalar.model import ModelConfig, build_model, save_model

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


# ---- sound -------------------------------------------------------------------------------------

RATE_HZ = 22_050


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    made = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()
    save_model(made, folder)
    return folder


def record(folder, songs, *, seconds=2.6, seed=1) -> None:
    """Noise for a mix and four stems of each instrument and song, one format a system."""
    rng = np.random.default_rng(seed)
    for song in songs:
        for instrument in ("bass", "drums"):
            place = folder / song / instrument
            place.mkdir(parents=True)
            for name, kind in zip(
                ("mix", *SYSTEMS), ("wav", "flac", "wav", "ogg", "wav"), strict=True
            ):
                # Generated stems have lengths of their own.
                samples = round((seconds + (name == "sac") * 0.3) * RATE_HZ)
                wave = 0.1 * rng.standard_normal(samples)
                soundfile.write(place / f"{name}.{kind}", wave, RATE_HZ)


def hear(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["listening", *map(str, words)])
    printed = capsys.readouterr()
    return int(ended.value.code), printed.out, printed.err


def rated_songs(folder, songs) -> None:
    rng = np.random.default_rng(3)
    rows = [
        (kind, song, (1 + rng.permutation(4)).tolist())
        for kind in ("bass", "drums")
        for song in songs
    ]
    other = [(kind, song, rng.normal(size=4).tolist()) for kind, song, _ in rows]
    write(folder, [rows], {"other": other})


def test_a_model_hears_the_test_and_joins_the_table(model, tmp_path, capsys) -> None:
    songs = ("A & B - [live]", "y", "z")
    rated_songs(tmp_path, songs)
    sounds = tmp_path / "sound"
    record(sounds, [*songs, "nobody rated this"])
    ask = (tmp_path, "--audio", sounds, "--model", model, "--name", "own", "--seconds", 1)
    code, out, _ = hear(capsys, *ask, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["missing"] == []
    assert (found["items"], found["models"].keys()) == (24, {"own", "other"})

    # Against each window scored by itself, of mix and stem as the file has them.
    scores = listening.read_scores(sounds / "results_own.json")
    assert len(scores) == 2 * 4 * 4
    loaded = phalar.load_model(model)
    place = sounds / songs[0] / "drums"
    windows = [
        phalar.score(loaded, place / "mix.wav", place / "stage.ogg", start_s=start_s, seconds=1)
        for start_s in (0, 1)
    ]
    assert scores["drums", songs[0], "stage"] == pytest.approx(np.mean(windows), abs=1e-4)

    # The file is one of the authors' kind: beside theirs it gives the same figures.
    (sounds / "results_own.json").rename(tmp_path / "results_own.json")
    again = json.loads(hear(capsys, tmp_path, "--json")[1])
    assert again["models"]["own"] == found["models"]["own"]
    code, _, err = hear(capsys, *ask)
    assert code == 2
    assert "results_own.json: is there already; give another --name" in err


def test_missing_sound_is_named(model, tmp_path, capsys) -> None:
    rated_songs(tmp_path, "xyz")
    sounds = tmp_path / "sound"
    ask = (tmp_path, "--audio", sounds, "--model", model, "--name", "own")
    assert "sound: no such folder; --audio has a sub-folder a song" in hear(capsys, *ask)[2]
    sounds.mkdir()
    assert "sound: no sound of the test, such as x/bass/mix.wav;" in hear(capsys, *ask)[2]
    record(sounds, "xy")
    code, out, _ = hear(capsys, *ask)
    assert code == 0
    assert "16 stems, 2 songs" in out
    assert "no sound of 2 rated parts: z/bass, z/drums" in out
    found = json.loads(hear(capsys, *ask, "--json")[1])
    assert found["missing"] == ["z/bass", "z/drums"]
    # Every model is compared on what was heard.
    rated = listening.read_ratings(tmp_path / "user_ratings")
    kept = [place for place, item in enumerate(rated.items) if item[1] != "z"]
    other = listening._on_items(listening.read_scores(tmp_path / "results_other.json"), rated, "")
    expected = listening.pearson(other[kept], rated.mean[kept])
    assert found["models"]["other"]["pearson"] == pytest.approx(expected)

    (sounds / "y/bass/stage.ogg").rename(sounds / "y/bass/stage.away")
    (sounds / "y/bass/stage.away").unlink()
    code, _, err = hear(capsys, *ask)
    assert code == 1
    assert "y/bass/stage.*: no such file; one sound file of that name must be there" in err
    (sounds / "y/bass/stage.wav").write_bytes(b"RIFF")
    assert "y/bass/stage.wav: cannot be decoded" in hear(capsys, *ask)[2]
    soundfile.write(sounds / "y/bass/stage.wav", np.zeros(100), RATE_HZ)
    assert "y/bass: its shortest sound has 0.00 s, must be 0.5 s or more" in hear(capsys, *ask)[2]
    (sounds / "y/bass/stage.flac").write_bytes(b"")
    assert "stage.*: there are stage.flac, stage.wav; one sound" in hear(capsys, *ask)[2]
