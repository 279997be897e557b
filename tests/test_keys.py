"""The key of a piece from its chords: cadences in every key, and chorales as Bach signed them."""

import numpy as np
import pytest

from phalar.evaluate import keys
from phalar.evaluate.pieces import Piece
from phalar.sources.scores import PITCH_CLASSES

SIGNATURES = {
    "C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5, "F#": 6,
    "C#": 7, "G#": 8, "D#": 9, "A#": 10, "F": 11,
}  # fmt: skip
"""Sharps of the major keys, from flats up where those are fewer."""
PER_CENT_WITHIN_A_FIFTH = 80


def cadence(tonic: int, *, minor: bool) -> list[tuple[float, float, str]]:
    """I, IV, V and I, the last twice as long; the dominant of minor is major."""
    quality = "min" if minor else "maj"
    degrees = ((0, quality), (5, quality), (7, "maj"), (0, quality))
    labels = [f"{PITCH_CLASSES[(tonic + step) % 12]}:{of}" for step, of in degrees]
    return [(n, n + 1 + (n == 3), label) for n, label in enumerate(labels)]


@pytest.mark.parametrize("tonic", range(12))
def test_a_cadence_says_its_key(tonic) -> None:
    assert keys.key_of(cadence(tonic, minor=False)) == tonic
    assert keys.key_of(cadence(tonic, minor=True)) == 12 + tonic


def test_what_names_no_tone_has_no_key() -> None:
    assert keys.key_of([]) is None
    assert keys.key_of([(0.0, 4.0, "N")]) is None
    unknown = Piece("bands", "a", "a", lambda: None, chords=[(0.0, 1.0, "N")])
    known = Piece("bands", "b", "b", lambda: None, chords=cadence(7, minor=False))
    assert keys.sharps_of([unknown, known]) == {("bands", "b"): 1}


def test_signatures_are_those_of_every_table_and_relatives_share_one() -> None:
    for tonic, name in enumerate(PITCH_CLASSES):
        assert keys.sharps(tonic) == SIGNATURES[name]
        assert keys.sharps(12 + (tonic + 9) % 12) == SIGNATURES[name]


def test_distance_equals_a_walk_around_the_circle() -> None:
    place = np.arange(12.0)
    found = keys.fifths_apart(place[:, None], place)
    for one in range(12):
        for other in range(12):
            walks = (next(k for k in range(12) if (one + way * k) % 12 == other) for way in (1, -1))
            assert found[one, other] == min(walks)
    assert np.isnan(keys.fifths_apart(np.array([np.nan]), place)).all()


def test_chorales_are_found_in_the_key_that_they_are_signed_in(tmp_path) -> None:
    """A modal chorale may be signed a fifth off, so that and no more is forgiven."""
    converter = pytest.importorskip("music21.converter")
    from music21.corpus.corpora import CoreCorpus

    from phalar.sources import chorales, scores

    listed = [p for p in CoreCorpus().getPaths() if p.parent.name == "bach" and p.suffix == ".mxl"]
    within = []
    for path in sorted(listed)[::40]:
        try:
            score = chorales.scan(path.parent, (path.name,))
        except ValueError:
            continue  # of other than four voices
        named = scores.chords(score.parts, score.beats(), score.end, transpose_st=0)
        parsed = converter.parse(path, format="musicxml", forceSource=True, storePickle=False)
        signed = parsed.recurse().getElementsByClass("KeySignature").first().sharps
        found = keys.sharps(keys.key_of(named))
        within.append(keys.fifths_apart(np.array(found), np.array(signed % 12)) <= 1)
    assert len(within) >= 5
    assert 100 * np.mean(within) >= PER_CENT_WITHIN_A_FIFTH
