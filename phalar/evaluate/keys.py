"""The key of a piece from its chords, and how far apart two keys are."""

from __future__ import annotations

from collections.abc import Sequence

import mir_eval
import numpy as np
from numpy.typing import NDArray

from phalar.evaluate.pieces import Chord, Piece

Floats = NDArray[np.floating]

MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
"""How well each pitch class fits a key on C, as listeners said."""
FARTHEST_FIFTHS = 6


def key_of(chords: Sequence[Chord]) -> int | None:
    """Find the key whose profile the tones of the chords follow best, each as long as it sounds.

    Returns
    -------
    int or None
        0..11 for major on C, C#, ..., 12..23 for minor; None where no tone is known.

    Notes
    -----
    The profiles of C. Krumhansl and E. Kessler, "Tracing the dynamic changes in perceived tonal
    organization", Psychological Review 89 (1982), by greatest correlation.
    """
    weight = np.zeros(12)
    for start_s, end_s, label in chords:
        root, tones, _ = mir_eval.chord.encode(label)
        if root >= 0:
            weight += (end_s - start_s) * np.roll(tones, root)
    if np.ptp(weight) == 0:
        return None
    profiles = [np.roll(profile, tonic) for profile in (MAJOR, MINOR) for tonic in range(12)]
    return int(np.argmax([np.corrcoef(weight, profile)[0, 1] for profile in profiles]))


def sharps(key: int) -> int:
    """Place of a key's signature on the circle of fifths, 0..11: 0 of C major and A minor."""
    tonic = key if key < 12 else key - 12 + 3
    return 7 * tonic % 12


def fifths_apart(sharps: Floats, others: Floats) -> Floats:
    """Steps on the circle of fifths between signatures that may be unknown (NaN), 0..6."""
    steps = np.mod(sharps - others, 12)
    return np.asarray(np.minimum(steps, 12 - steps))


def sharps_of(pieces: Sequence[Piece]) -> dict[tuple[str, str], int]:
    """Give the signature of each recording whose chords say a key, by source and name."""
    found = {(piece.source, piece.name): key_of(piece.chords) for piece in pieces}
    return {name: sharps(key) for name, key in found.items() if key is not None}
