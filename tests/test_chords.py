"""The chord probe: labels, windows, chroma, folds, controls, and GuitarSet in its own layout."""

import json

import mir_eval
import numpy as np
import pytest
import soundfile
import torch

from phalar.audio import SAMPLE_RATE_HZ
from phalar.evaluate import chords, linear, pieces
from phalar.evaluate.bootstrap import Bootstrap
from phalar.model import ModelConfig, build_model
from phalar.model.complex_layers import ComplexLinear
from phalar.params import EvaluateChords

SETTINGS = EvaluateChords(seconds=20.0, window_s=1.0, hop_s=0.5, epochs=60, guitarset=None)
PROGRESSION = ("C:maj", "A:min", "F:maj", "G:maj")
TRIADS = {"maj": (0, 4, 7), "min": (0, 3, 7)}


def draw(names: list[str]) -> Bootstrap:
    return Bootstrap(names, resamples=200, seed=1)


def sounded(label: str, seconds: float) -> np.ndarray:
    """A triad of sines above middle C."""
    root, quality = label.split(":")
    time_s = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    pitches = [60 + chords.ROOTS.index(root) + tone for tone in TRIADS[quality]]
    tones = [np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time_s) for pitch in pitches]
    return (0.1 * sum(tones)).astype(np.float32)


def played(name: str, labels: tuple[str, ...], *, song: str = "", each_s: float = 2.0):
    """A recording of so many chords, and what it says of them."""
    wave = np.concatenate([sounded(label, each_s) for label in labels])
    known = [(n * each_s, (n + 1) * each_s, label) for n, label in enumerate(labels)]
    return pieces.Piece("made", name, song or name, lambda: wave, chords=known)


# ---- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "chord"),
    [
        ("C:maj", "C:maj"),
        ("Eb:maj", "D#:maj"),
        ("C", "C:maj"),
        ("A#:min7/5", "A#:min"),
        ("Db:7", "C#:maj"),
        ("G:maj6(9)/3", "G:maj"),
        ("D:minmaj7", "D:min"),
        ("N", "N"),
    ],
)
def test_labels_with_a_triad_become_it(label, chord) -> None:
    assert chords.CLASSES[chords.chord_class(label)] == chord


@pytest.mark.parametrize(
    "label", ["C:dim", "C:hdim7", "C:aug", "C:sus4", "C:sus2", "C:maj(*3)", "C:min(*5)", "C:5", "X"]
)
def test_labels_without_one_are_neither_a_triad_nor_none(label) -> None:
    assert chords.chord_class(label) == chords.UNMAPPED


def test_every_class_is_its_own_and_the_rule_is_that_of_mir_eval() -> None:
    assert [chords.chord_class(label) for label in chords.CLASSES] == list(range(25))
    qualities = [quality for quality in mir_eval.chord.QUALITIES if quality]
    labels = [f"{root}:{quality}" for root in chords.ROOTS for quality in qualities] + ["N", "X"]
    for label in labels:
        number = chords.chord_class(label)
        compared = mir_eval.chord.majmin([label] * 25, list(chords.CLASSES))
        if number == chords.UNMAPPED:
            assert set(compared) == {-1}, label
        else:
            assert np.flatnonzero(compared == 1).tolist() == [number], label


def test_what_is_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="'H:moll': not a chord label"):
        chords.chord_class("H:moll")
    piece = played("damaged", ("C:maj",))
    piece.chords[0] = (0.0, 2.0, "H:moll")
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()
    with pytest.raises(ValueError, match="made/damaged: 'H:moll': not a chord label"):
        chords.hear(piece, model, SETTINGS)


# ---- windows, chroma, times ---------------------------------------------------------------------


def test_windows_lie_around_their_middles() -> None:
    wave = np.arange(1, 3 * SAMPLE_RATE_HZ + 1, dtype=np.float32)
    settings = SETTINGS.model_copy(update={"window_s": 2.0})
    found = chords.windows(wave, settings)
    middles = chords.middles(3.0, 0.5)
    assert middles.tolist() == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]
    assert found.shape == (6, 2 * SAMPLE_RATE_HZ)
    for window, middle_s in zip(found, middles, strict=True):
        for sample, value in enumerate(window[::1000]):
            at = round((middle_s - 1.0) * SAMPLE_RATE_HZ) + 1000 * sample
            assert value == (wave[at] if 0 <= at < len(wave) else 0)


@pytest.mark.parametrize("hop_s", [0.5, 0.02, 0.33])
def test_chroma_equals_a_loop(hop_s) -> None:
    rng = np.random.default_rng(1)
    wave = rng.normal(0, 0.1, 2 * SAMPLE_RATE_HZ).astype(np.float32)
    found = chords.chroma(wave, SETTINGS.model_copy(update={"hop_s": hop_s}))
    magnitude = chords.ConstantQ()(torch.from_numpy(wave)[None])[0].numpy()
    slow = []
    for window in range(int(2 / hop_s)):
        first, last = round(window * hop_s * 100), round((window + 1) * hop_s * 100)
        folded = [0.0] * 12
        for bin_, row in enumerate(magnitude):
            folded[bin_ % 12] += sum(row[first:last].tolist()) / (last - first)
        slow.append(folded)
    np.testing.assert_allclose(found, slow, rtol=1e-5)


@pytest.mark.parametrize("label", ["C:maj", "F#:min", "A#:maj"])
def test_chroma_is_loudest_at_the_tones_that_sound(label) -> None:
    found = chords.chroma(sounded(label, 2.0), SETTINGS)[1]
    root, quality = label.split(":")
    tones = {(chords.ROOTS.index(root) + tone) % 12 for tone in TRIADS[quality]}
    assert set(np.argsort(found)[-3:].tolist()) == tones


def test_labels_hold_from_start_to_end_and_gaps_say_nothing() -> None:
    known = [(0.5, 1.0, "C:maj"), (1.0, 2.0, "N"), (3.0, 4.0, "G:7")]
    at_s = np.array([0.2, 0.5, 0.99, 1.0, 1.5, 2.5, 3.0, 4.0])
    slow = [next((x for a, b, x in known if a <= t < b), None) for t in at_s.tolist()]
    assert chords.labels_at(known, at_s) == slow
    assert slow == [None, "C:maj", "C:maj", "N", "N", None, "G:7", None]


# ---- the probe ---------------------------------------------------------------------------------


def clusters(windows: int, *, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (W, 8) of 4 classes, of which the first has two fifths of the windows."""
    rng = np.random.default_rng(1)
    classes = rng.choice(4, windows, p=[0.4, 0.2, 0.2, 0.2]).astype(np.int64)
    centres = rng.normal(size=(4, 8))
    return centres[classes] + noise * rng.normal(size=(windows, 8)), classes


def test_the_real_layer_is_the_real_part_of_a_complex_one() -> None:
    layer = ComplexLinear(6, 25)
    x_WRD = torch.randn(4, 2, 6)
    real, imaginary = layer.weight.chunk(2)
    weight = torch.cat([real, -imaginary], dim=1)
    torch.testing.assert_close(layer(x_WRD)[:, 0], x_WRD.flatten(1) @ weight.T)


def test_the_probe_reads_what_is_there_and_shuffled_labels_fall_to_the_majority() -> None:
    features, classes = clusters(1500, noise=0.1)
    known = np.ones(len(classes), dtype=bool)
    fold = linear.deal([f"group{n // 15}" for n in range(1500)], seed=1)

    def accuracy(labels: np.ndarray) -> float:
        answers = linear.answer(linear.scale(features), labels, fold, known, epochs=60, seed=1)
        return float(np.mean(answers == classes))

    most = float(np.mean(linear.majority(classes, fold, known) == classes))
    assert accuracy(classes) > 0.99
    assert accuracy(linear.shuffle(classes, known, seed=1)) == pytest.approx(most, abs=0.03)
    assert most == pytest.approx(0.4, abs=0.04)


def test_the_probe_never_learns_from_the_fold_that_it_answers() -> None:
    features, classes = clusters(200, noise=0.1)
    known = np.ones(200, dtype=bool)
    fold = linear.deal([str(n // 10) for n in range(200)], seed=3)
    answers = linear.answer(linear.scale(features), classes, fold, known, epochs=2, seed=1)
    for held_out in range(linear.FOLDS):
        own = fold == held_out
        lied = np.where(own, 3 - classes, classes)
        again = linear.answer(linear.scale(features), lied, fold, known, epochs=2, seed=1)
        np.testing.assert_array_equal(again[own], answers[own])
        # And never from a window without a class.
        some = known & ~own
        lied = np.where(own, chords.UNMAPPED, classes)
        without = linear.answer(linear.scale(features), lied, fold, some, epochs=2, seed=1)
        np.testing.assert_array_equal(without[own], answers[own])


def test_folds_hold_whole_groups_of_about_one_size() -> None:
    groups = [f"g{n % 23}" for n in range(230)]
    fold = linear.deal(groups, seed=1)
    assert all(
        len({f for f, g in zip(fold, groups, strict=True) if g == name}) == 1 for name in groups
    )
    assert sorted(np.bincount(fold).tolist()) == [40, 40, 50, 50, 50]
    assert linear.deal(["a", "b", "a"], seed=1).tolist() in ([0, 1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match=r"1 group\(s\) to hold out one of, need 2"):
        linear.deal(["a", "a"], seed=1)


def test_scaled_embeddings_have_one_size_and_silence_stays() -> None:
    scaled = linear.scale(np.array([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]]))
    assert np.sqrt(np.mean(scaled[0] ** 2)) == pytest.approx(1)
    assert scaled[1].tolist() == [0, 0, 0, 0]


# ---- all of it ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged():
    """Ten recordings of five pieces whose chords sines play, with an untrained model."""
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()
    listed = [recording(f"{player}_{n}", n) for player in "ab" for n in range(5)]
    found = [
        chords.judge_pieces(listed, model, settings=SETTINGS, draw=draw, seed=1) for _ in range(2)
    ]
    assert found[0] == found[1]
    return found[0]


def recording(name: str, turns: int) -> pieces.Piece:
    """The progression from another place of it; two pieces end in what is no triad."""
    odd = turns % 2
    turned = (*PROGRESSION[turns:], *PROGRESSION[:turns], *["B:min"] * odd)
    piece = played(name, turned[: 4 + odd], song=str(turns), each_s=1.5)
    if odd:
        piece.chords[-1] = (*piece.chords[-1][:2], "B:dim")
    return piece


def test_chroma_reads_sines_and_what_knows_nothing_does_not(judged) -> None:
    for way in ("recording", "piece"):
        found = judged[way]
        assert set(found) == {"model", "chroma", "shuffled", "majority"}
        assert found["chroma"]["accuracy"] > 0.8
        assert found["majority"]["accuracy"] < 0.4
        for figures in found.values():
            assert figures["low"] <= figures["accuracy"] <= figures["high"]
            assert 0 <= figures["majmin"] <= 1
    assert (judged["recordings"], judged["pieces"]) == (10, 5)


def test_chords_that_have_no_class_are_counted_and_left_out(judged) -> None:
    # B:dim of 1.5 s in two pieces of two recordings each, half a second a window.
    assert judged["left_out"] == {"dim": 2 * 2 * 3}
    assert judged["windows"] == 2 * (3 * 12 + 2 * 15)


def test_recall_equals_hand_counted_time() -> None:
    # Of 3 s the last does not count; of the first two, half a second each is answered wrong.
    piece = played("one", ("C:maj", "A:min", "D:maj"), each_s=1.0)
    piece.chords[-1] = (2.0, 3.0, "D:sus4")
    named = ["C:maj", "G:maj", "A:min", "A:maj", "D:maj", "D:maj"]
    answers = np.array([chords.CLASSES.index(name) for name in named])
    found = chords.recall([piece], [answers], 0.5)
    assert found["majmin"] == pytest.approx(1.0 / 2.0)
    assert found["root"] == pytest.approx((0.5 + 1.0 + 1.0) / 3.0)


def test_recall_counts_nothing_where_nothing_is_said() -> None:
    piece = pieces.Piece("made", "gap", "gap", lambda: None, chords=[(0.5, 1.0, "C:maj")])
    answers = np.full(4, chords.CLASSES.index("C:maj"))
    assert chords.recall([piece], [answers], 0.5)["majmin"] == 1


# ---- GuitarSet ---------------------------------------------------------------------------------


def jams(instructed: list, performed: list) -> str:
    """An annotation as GuitarSet has it: notes, beats, two lists of chords, the key."""

    def annotation(namespace: str, rows: list, source: str = "") -> dict:
        data = [
            {"time": time, "duration": duration, "value": value, "confidence": None}
            for time, duration, value in rows
        ]
        known = {"annotation_tools": "", "data_source": source, "validation": ""}
        return {"namespace": namespace, "annotation_metadata": known, "data": data, "sandbox": {}}

    return json.dumps({
        "annotations": [
            annotation("note_midi", [(0.1, 0.3, 51.04)], "0"),
            annotation("beat_position", [(0.5, 0.0, {"position": 2, "measure": 1})]),
            annotation("chord", instructed),
            annotation("chord", performed),
            annotation("key_mode", [(0.0, 4.0, "D#:major")]),
        ],
        "file_metadata": {"title": "", "duration": 4.0, "jams_version": "0.3.1"},
        "sandbox": {},
    })  # fmt: skip


def write_guitarset(folder, names) -> None:
    """`annotation/` and `audio_mono-mic/` as the archives of its record unpack."""
    for part in ("annotation", "audio_mono-mic"):
        (folder / part).mkdir(parents=True)
    for name in names:
        rows = [(0.0, 2.0, "D#:maj"), (2.0, 2.0, "A#:7")]
        heard = [(0.0, 2.0, "D#:maj(*5)/1"), (2.0, 2.0, "A#:7(*3)/1")]
        (folder / f"annotation/{name}.jams").write_text(jams(rows, heard))
        wave = np.concatenate([sounded("D#:maj", 2.0), sounded("A#:maj", 2.0)])
        path = folder / f"audio_mono-mic/{name}_mic.wav"
        soundfile.write(path, np.repeat(wave, 2), 2 * SAMPLE_RATE_HZ)


def test_guitarset_is_read_in_its_own_layout(tmp_path) -> None:
    names = [
        "00_BN1-129-Eb_comp",
        "00_BN1-129-Eb_solo",
        "03_BN1-129-Eb_comp",
        "00_Rock1-90-C#_comp",
    ]
    write_guitarset(tmp_path, names)
    found = pieces.of_guitarset(tmp_path)
    assert [piece.name for piece in found] == [names[0], names[3], names[2]]
    assert [piece.song for piece in found] == ["BN1-129-Eb", "Rock1-90-C#", "BN1-129-Eb"]
    # What the players were given, not which tones they left out.
    assert found[0].chords == [(0.0, 2.0, "D#:maj"), (2.0, 4.0, "A#:7")]
    assert found[0].load().shape == (4 * SAMPLE_RATE_HZ,)
    at_s = chords.middles(4.0, 1.0)
    classes = [chords.chord_class(label) for label in chords.labels_at(found[0].chords, at_s)]
    assert [chords.CLASSES[number] for number in classes] == ["D#:maj"] * 2 + ["A#:maj"] * 2


def test_guitarset_that_is_away_or_broken_is_named_with_what_to_do(tmp_path) -> None:
    advice = (
        r"unpack annotation\.zip and audio_mono-mic\.zip of https://zenodo\.org/records/3371780"
    )
    with pytest.raises(ValueError, match=f"away: no such folder; {advice}"):
        pieces.of_guitarset(tmp_path / "away")
    with pytest.raises(ValueError, match=rf"no \*_comp\.jams; {advice}"):
        pieces.of_guitarset(tmp_path)
    write_guitarset(tmp_path, ["00_BN1-129-Eb_comp"])
    (tmp_path / "annotation/00_BN1-129-Eb_comp.jams").write_text('{"annotations": []}')
    with pytest.raises(ValueError, match=r"not a JAMS file with chords \(IndexError.*unpack it ag"):
        pieces.of_guitarset(tmp_path)
    (tmp_path / "audio_mono-mic/00_BN1-129-Eb_comp_mic.wav").unlink()
    with pytest.raises(ValueError, match=r"00_BN1-129-Eb_comp_mic\.wav is not; unpack"):
        pieces.of_guitarset(tmp_path)
