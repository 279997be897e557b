"""Playing and sounding a score: tuning, time, levels, and stems that add up to the mix."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest

from phalar import sources, tracks
from phalar.audio import SAMPLE_RATE_HZ, levels_db
from phalar.sources import Entry, Job, performance, synth
from phalar.sources.scores import DRUM_KIT, Control, Note, Part, Score

FLUTE, VIOLIN, BASS = 73, 40, 33


def line(program, pitches, *, step=0.5, offset=0.0, velocity=90):
    notes = [
        Note(offset + k * step, offset + (k + 1) * step, pitch, velocity)
        for k, pitch in enumerate(pitches)
    ]
    return Part(program, notes, [])


def sound(parts, **changes):
    settings = {"cents": 0.0, "levels_db": [0.0] * len(parts), "balanced": False, "seconds": 3.0}
    return synth.sound(parts, **settings | changes)


def pitch_hz(wave):
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 18))
    return spectrum.argmax() * SAMPLE_RATE_HZ / (1 << 18)


@pytest.mark.parametrize("cents", [-40.0, 0.0, 35.0])
def test_tuning_is_exact_to_two_cents(cents):
    # A square lead: strong fundamental, no vibrato.
    wave = synth.sound_part(line(80, [69], step=2.0), cents=cents, seconds=3.0)
    measured = 1200 * np.log2(pitch_hz(wave[8000:24000]) / 440)
    assert measured == pytest.approx(cents, abs=2)


def test_drums_have_no_tuning():
    kit = line(DRUM_KIT, [36, 42, 38, 42])
    low, high = (synth.sound_part(kit, cents=cents, seconds=3.0) for cents in (-40.0, 40.0))
    np.testing.assert_array_equal(low, high)


def test_a_note_sounds_when_it_is_written():
    wave = synth.sound_part(Part(115, [Note(1.25, 1.5, 76, 120)], []), cents=0, seconds=3.0)
    onset = np.flatnonzero(np.abs(wave) > 0.05 * np.abs(wave).max())[0] / SAMPLE_RATE_HZ
    assert onset == pytest.approx(1.25, abs=0.004)


def test_a_part_that_starts_late_sounds_as_in_the_whole():
    part = line(FLUTE, [72, 74, 76], offset=1.2345)
    trimmed = synth.sound_part(part, cents=12, seconds=4.0)
    whole = synth.render(synth.midi_bytes([part], cents=12, start_s=0, end_s=4.0))
    np.testing.assert_allclose(trimmed[: len(whole)], whole, atol=2e-5)
    assert not trimmed[: int(1.2 * SAMPLE_RATE_HZ)].any()


def test_stems_add_up_to_the_mix():
    parts = [
        line(FLUTE, [72, 74, 76, 77]),
        line(VIOLIN, [64, 65, 67, 69], offset=0.25),
        line(BASS, [40, 43, 45, 47]),
        line(DRUM_KIT, [36, 42, 38, 42]),
    ]
    mix = synth.render(synth.midi_bytes(parts, cents=7, start_s=0, end_s=3.0))
    stems = [synth.sound_part(part, cents=7, seconds=3.0) for part in parts]
    error = np.sum(stems, axis=0)[: len(mix)] - mix
    assert np.sqrt(np.mean(error**2) / np.mean(mix**2)) < 1e-3


def test_the_same_part_gives_the_same_samples():
    part = line(FLUTE, [72, 74])
    first, second = (synth.sound_part(part, cents=3, seconds=2.0) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_one_gain_keeps_stems_and_mix_within_the_peak():
    stems = sound([line(FLUTE, [72, 74]), line(BASS, [40, 43]), line(VIOLIN, [])])
    assert stems[2] is None
    loudest = max(np.abs(wave).max() for wave in [*stems[:2], stems[0] + stems[1]])
    assert loudest == pytest.approx(synth.PEAK, rel=1e-5)


def test_balanced_parts_are_equally_loud_before_their_levels():
    parts = [line(FLUTE, [72, 74, 76], velocity=40), line(BASS, [40, 43, 45], velocity=120)]
    flute, bass = sound(parts, balanced=True, levels_db=[6.0, 0.0])
    ratio_db = 20 * np.log10(synth._loudness(flute) / synth._loudness(bass))
    assert ratio_db == pytest.approx(6.0, abs=0.1)


def test_volume_zero_is_not_heard():
    muted = Part(FLUTE, line(FLUTE, [72, 74]).notes, [Control(0.0, 7, 0)])
    heard, silent = sound([line(BASS, [40, 43]), muted])
    assert heard is not None
    assert silent is None


def test_a_repeated_note_is_not_stopped_by_the_one_before():
    notes = [Note(0.0, 1.05, 60, 90), Note(1.0, 2.0, 60, 90), Note(0.5, 1.5, 64, 90)]
    kept = sorted(synth._without_overlaps(notes))
    assert kept[0].end == pytest.approx(0.9998)
    assert [note.end for note in kept[1:]] == [1.5, 2.0]
    wave = synth.sound_part(Part(VIOLIN, notes, []), cents=0, seconds=3.0)
    assert levels_db(wave)[12:19].min() > -40


def test_a_missing_synthesiser_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "midirenderer", None)
    with pytest.raises(OSError, match="midirenderer is not installed; `pip install"):
        synth.render(b"")


@pytest.fixture
def piece():
    parts = [
        Part(FLUTE, line(FLUTE, range(60, 76), step=1.0).notes, [Control(4.0, 7, 100)]),
        line(DRUM_KIT, [42] * 16, step=1.0),
        line(BASS, [], step=1.0),
    ]
    bars = [(at, 1.0) for at in (0.0, 4.0, 8.0, 12.0)]
    return Score("piece", "Piece", "Nobody", parts, [(0.0, 0.5)], bars, 16.0)


def played(piece, *, max_s=60.0, seed=0):
    rng = np.random.default_rng(seed)
    job = Job("bands", Entry("piece_r0", ("piece.mid",)), "piece", "train", "CC0-1.0", 1, ())
    drawn = performance.draw(piece, [FLUTE, DRUM_KIT, BASS], balanced=False, rng=rng)
    return drawn, performance.play(job, piece, drawn, max_s=max_s, rng=rng)


def test_a_performance_is_annotated_in_its_own_time(piece):
    drawn, track = played(piece)
    tracks.validate(track)
    assert track.tempo_bpm == pytest.approx(120 * drawn.tempo_factor)
    assert len(track.beats_s) == 16
    np.testing.assert_allclose(np.diff(track.beats_s), 0.5 / drawn.tempo_factor)
    assert track.downbeats_s == track.beats_s[::4]
    assert all(a[1] == b[0] for a, b in pairwise(track.chords))
    assert track.chords[-1][1] == pytest.approx(8 / drawn.tempo_factor)
    seconds = 8 / drawn.tempo_factor + performance.TAIL_S
    assert len(track.stems[0].audio) == round(seconds * SAMPLE_RATE_HZ)
    assert [stem.name for stem in track.stems] == ["00-flute", "01-drums"]
    assert [stem.program for stem in track.stems] == [FLUTE, 128]


def test_max_s_ends_a_performance_at_a_bar(piece):
    drawn, track = played(piece, max_s=5.0)
    bars = len(track.downbeats_s)
    assert bars == 5.0 // (2 / drawn.tempo_factor)
    assert len(track.beats_s) == 4 * bars


def test_notes_deviate_a_little_and_drums_keep_their_pitch(piece):
    drawn = performance.draw(
        piece, [FLUTE, DRUM_KIT, BASS], balanced=False, rng=np.random.default_rng(3)
    )
    rng = np.random.default_rng(0)
    for part, shift in ((piece.parts[0], drawn.transpose_st), (piece.parts[1], 0)):
        done = performance.perform(part, piece, drawn, program=part.program, rng=rng)
        written = piece.seconds([note.start for note in part.notes]) / drawn.tempo_factor
        late_s = np.array([note.start for note in done.notes]) - written
        assert np.abs(late_s).max() <= 2 * performance.TIMING_S + 1e-9
        assert np.std(late_s) > performance.TIMING_S / 3
        assert [note.pitch - shift for note in done.notes] == [note.pitch for note in part.notes]
        assert len({note.velocity for note in done.notes}) > 4
    assert drawn.transpose_st != 0


def test_draws_cover_their_ranges(piece):
    drawn = [
        performance.draw(piece, [], balanced=True, rng=np.random.default_rng(seed))
        for seed in range(300)
    ]
    assert {each.transpose_st for each in drawn} == set(range(-3, 4))
    for values, low, high in (
        ([each.tempo_factor for each in drawn], 0.85, 1.18),
        ([each.cents for each in drawn], -40, 40),
        ([each.levels_db[0] for each in drawn], -6, 6),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high


def test_fewer_than_two_parts_are_no_track(piece):
    piece = Score(
        "solo",
        "Solo",
        "Nobody",
        [piece.parts[0]] + [piece.parts[2]] * 2,
        piece.tempos,
        piece.bars,
        16.0,
    )
    with pytest.raises(sources.Unwanted, match="1 of its 3 parts are heard, a pair needs 2"):
        played(piece)


def test_chance_belongs_to_the_track_alone():
    def draw(source="bands", seed=1, rendition=0, file="a.mid"):
        entry = Entry("a", (file,), rendition)
        return Job(source, entry, "a", "train", "", seed, ()).rng().integers(1 << 60)

    assert draw() == draw()
    others = {draw(source="chorales"), draw(seed=2), draw(rendition=1), draw(file="b.mid")}
    assert len(others | {draw()}) == 5
