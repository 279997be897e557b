"""The scores of both embedded sources: parts, metre, chords and variants."""

from __future__ import annotations

import struct

import mido
import numpy as np
import pytest

from phalar import sources
from phalar.params import PrepareScores
from phalar.sources import bands, chorales, synth
from phalar.sources.scores import (
    BEND_RANGE,
    DRUM_KIT,
    Note,
    Part,
    Score,
    beat_unit,
    chords,
    group_variants,
    melodic_figures,
)

TICKS = 480


def write_midi(path, channels, *, tempo_bpm=120.0, metres=((0, 4, 4),), setup=()):
    """Write a MIDI file: {channel: (program, [(start, end, pitch)])} in quarter notes."""
    events = [
        (0.0, 0, mido.MetaMessage("set_tempo", tempo=round(60e6 / tempo_bpm))),
        *(
            (at, 0, mido.MetaMessage("time_signature", numerator=n, denominator=d))
            for at, n, d in metres
        ),
        *((0.0, 1, message) for message in setup),
    ]
    for channel, (program, notes) in channels.items():
        events.append((0.0, 1, mido.Message("program_change", channel=channel, program=program)))
        for start, end, pitch in notes:
            key = {"channel": channel, "note": pitch}
            events.append((start, 3, mido.Message("note_on", velocity=80, **key)))
            events.append((end, 2, mido.Message("note_off", **key)))
    track, now = mido.MidiTrack(), 0
    for at, _, message in sorted(events, key=lambda event: event[:2]):
        tick = round(at * TICKS)
        track.append(message.copy(time=tick - now))
        now = tick
    file = mido.MidiFile(ticks_per_beat=TICKS)
    file.tracks.append(track)
    file.save(path)


BAND = {
    0: (33, [(q, q + 1, 40) for q in range(16)]),
    1: (27, [(q, q + 2, 64) for q in range(0, 16, 2)]),
    2: (0, [(q, q + 4, 67) for q in range(0, 16, 4)]),
    9: (0, [(q / 2, q / 2 + 0.25, 42) for q in range(32)]),
}


def score(parts, *, bars=((0.0, 1.0), (4.0, 1.0)), tempos=((0.0, 0.5),), end=8.0):
    return Score("piece", "Piece", "Nobody", parts, list(tempos), list(bars), end)


def test_unknown_source_lists_the_choices():
    with pytest.raises(ValueError, match="'choral' is unknown; choose from chorales, bands"):
        sources.load("choral")


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "bands", "no_such_package")
    with pytest.raises(OSError, match="'bands' needs the package no_such_package; `pip install"):
        sources.load("bands")


def test_every_source_offers_what_the_stages_call():
    for name in sources.SOURCES:
        module = sources.load(name)
        for part in ("find", "scan", "songs", "make"):
            assert callable(getattr(module, part)), f"{name}.{part}"
        # A source fetches by itself, or says which archives and folders it comes in.
        assert hasattr(module, "download") != hasattr(module, "pieces"), name
        assert module.LICENCE
        assert module.CREDITS


def test_every_program_has_a_family_of_the_shared_words():
    assert {synth.family(program) for program in range(129)} <= set(sources.INSTRUMENTS)


@pytest.mark.parametrize(
    ("metre", "unit"),
    [((4, 4), 1), ((3, 4), 1), ((2, 2), 2), ((6, 8), 1.5), ((12, 8), 1.5), ((3, 8), 0.5)],
)
def test_beat_unit(metre, unit):
    assert beat_unit(*metre) == unit


def test_seconds_follow_each_tempo():
    piece = score([], tempos=[(0.0, 0.5), (4.0, 1.0)])
    np.testing.assert_allclose(piece.seconds([0, 2, 4, 5]), [0, 1, 2, 3])


def test_beats_count_back_through_the_upbeat():
    piece = score([], bars=[(1.0, 1.0), (5.0, 1.0)], end=8.0)
    assert piece.beats() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_until_ends_at_a_bar_line_and_cuts_what_sounds_there():
    part = Part(0, [Note(0, 6, 60, 80), Note(5, 6, 62, 80)], [])
    cut = score([part]).until(2.5)
    assert cut.end == 4.0
    assert cut.parts[0].notes == [Note(0, 4, 60, 80)]
    assert cut.bars == [(0.0, 1.0)]
    assert score([part]).until(4.0).end == 8.0


def test_until_without_a_bar_line_says_so():
    with pytest.raises(ValueError, match=r"piece: no bar ends within 0.5 s; raise max_s"):
        score([]).until(0.5)


NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def triad(*pitches, start=0.0, end=1.0):
    return [Note(start, end, pitch, 80) for pitch in pitches]


def test_chords_name_each_beat_join_equals_and_transpose():
    notes = triad(48, 64, 67, end=2) + triad(45, 60, 64, start=2, end=3)
    named = chords([Part(0, notes, [])], [0, 1, 2, 3], 4.0, transpose_st=0)
    assert named == [(0, 2, "C:maj"), (2, 3, "A:min"), (3, 4, "N")]
    raised = chords([Part(0, notes, [])], [0, 1, 2, 3], 4.0, transpose_st=2)
    assert [label for _, _, label in raised] == ["D:maj", "B:min", "N"]


@pytest.mark.parametrize(
    ("root", "quality", "third"),
    [(r, q, t) for r in range(12) for q, t in (("maj", 4), ("min", 3))],
)
def test_every_triad_is_found(root, quality, third):
    notes = triad(48 + root, 60 + root + third, 60 + root + 7)
    (chord,) = chords([Part(0, notes, [])], [0.0], 1.0, transpose_st=0)
    assert chord[2] == f"{NAMES[root]}:{quality}"


def test_drums_and_clusters_are_no_chord():
    kit = Part(DRUM_KIT, triad(36, 40, 43), [])
    cluster = Part(0, triad(*range(60, 67)), [])
    assert chords([kit], [0.0], 1.0, transpose_st=0) == [(0, 1, "N")]
    assert chords([kit, cluster], [0.0], 1.0, transpose_st=0) == [(0, 1, "N")]


def test_variants_in_other_keys_share_a_song_and_strangers_do_not():
    rng = np.random.default_rng(0)
    tune, stranger = (rng.integers(55, 80, 60).tolist() for _ in range(2))
    variant = [pitch + 5 for pitch in tune[:40]] + stranger[:5]
    figures = [melodic_figures(t, intervals=6, distinct=2) for t in (stranger, tune, variant)]
    assert group_variants(["a", "b", "c"], figures, overlap=0.25) == ["a", "b", "b"]


def test_loops_are_no_figure():
    assert melodic_figures([60, 64, 67] * 20, intervals=8, distinct=4) == set()


def wad(lumps):
    directory, body = b"", b""
    for name, content in lumps:
        directory += struct.pack("<ii8s", 12 + len(body), len(content), name)
        body += content
    return struct.pack("<4sii", b"IWAD", len(lumps), 12 + len(body)) + body + directory


def test_midi_lumps_are_told_from_others():
    archive = wad(
        [
            (b"MAP01", b""),
            (b"D_E1M1", b"MThd-one"),
            (b"D_MUS", b"MUS\x1a"),
            (b"D_E1M2", b"MThd-two"),
        ]
    )
    assert list(bands.midi_lumps(archive)) == [("D_E1M1", b"MThd-one"), ("D_E1M2", b"MThd-two")]


def test_half_an_archive_is_refused():
    archive = wad([(b"D_E1M1", b"MThd")])
    with pytest.raises(ValueError, match="not a whole WAD archive: 20 bytes"):
        list(bands.midi_lumps(archive[:20]))
    with pytest.raises(ValueError, match="not a whole WAD archive: 0 bytes"):
        list(bands.midi_lumps(b""))


@pytest.fixture
def band_name():
    """A name that the credits know."""
    return "freedoom1-d_e1m1.mid"


def test_a_band_is_read_part_by_part(tmp_path, band_name):
    bend_range = [
        mido.Message("control_change", channel=1, control=c, value=v)
        for c, v in ((101, 0), (100, 0), (6, 12))
    ]
    pan = mido.Message("control_change", channel=1, control=10, value=0)
    write_midi(
        tmp_path / band_name, BAND, tempo_bpm=90, metres=[(0, 3, 4)], setup=[*bend_range, pan]
    )
    piece = bands.scan(tmp_path, (band_name,))
    assert [part.program for part in piece.parts] == [33, 27, 0, DRUM_KIT]
    assert [len(part.notes) for part in piece.parts] == [16, 8, 4, 32]
    assert [(c.number, c.value) for c in piece.parts[1].controls] == [(BEND_RANGE, 12)]
    assert piece.bars[:3] == [(0, 1), (3, 1), (6, 1)]
    assert piece.seconds([3.0])[0] == pytest.approx(2.0, abs=1e-5)
    assert (piece.title, piece.artist) == ("Stanky Leg Specialist", 'Lola "BlueWorrior" Harvey')


def test_a_program_change_starts_another_part(tmp_path, band_name):
    write_midi(tmp_path / band_name, BAND)
    midi = mido.MidiFile(tmp_path / band_name)
    place = next(i for i, m in enumerate(midi.tracks[0]) if m.type == "note_off" and m.channel == 0)
    midi.tracks[0].insert(place, mido.Message("program_change", channel=0, program=38))
    midi.save(tmp_path / band_name)
    parts = {part.program: len(part.notes) for part in bands.scan(tmp_path, (band_name,)).parts}
    assert parts[33] == 1
    assert parts[38] == 15


@pytest.mark.parametrize(
    ("without", "reason"), [(9, "3 programs without drums"), (0, "2 programs and drums")]
)
def test_what_is_no_band_is_unwanted(tmp_path, band_name, without, reason):
    write_midi(tmp_path / band_name, {c: part for c, part in BAND.items() if c != without})
    with pytest.raises(sources.Unwanted, match=reason):
        bands.scan(tmp_path, (band_name,))


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"MThd\x00\x00\x00\x06\x00\x01\x00\x01"]
)
def test_damaged_midi_is_named(tmp_path, band_name, content):
    (tmp_path / band_name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{band_name}: not readable as MIDI"):
        bands.scan(tmp_path, (band_name,))


@pytest.fixture(scope="module")
def bwv_scores():
    """Three real chorales: two settings of one tune, and another tune."""
    from music21.corpus.corpora import CoreCorpus

    folder = next(path.parent for path in CoreCorpus().getPaths() if path.parent.name == "bach")
    return [chorales.scan(folder, (f"bwv{n}.mxl",)) for n in ("10.7", "99.6", "144.3")]


@pytest.mark.parametrize("damage", ["half", "html", "empty", "flipped"])
def test_damaged_musicxml_is_named(tmp_path, damage):
    from music21.corpus.corpora import CoreCorpus

    whole = next(p for p in CoreCorpus().getPaths() if p.name == "bwv10.7.mxl").read_bytes()
    flipped = bytes(
        byte ^ 0x55 if 900 <= place < 1200 else byte for place, byte in enumerate(whole)
    )
    content = {"half": whole[:2000], "html": b"<html>404</html>", "empty": b"", "flipped": flipped}
    (tmp_path / "bwv1.mxl").write_bytes(content[damage])
    with pytest.raises(ValueError, match=r"bwv1.mxl: not readable as MusicXML \("):
        chorales.scan(tmp_path, ("bwv1.mxl",))


def test_a_chorale_has_four_voices_and_full_bars(bwv_scores):
    magnificat = bwv_scores[0]
    assert len(magnificat.parts) == 4
    assert magnificat.title == "BWV 10.7"
    assert magnificat.end == 88.0
    assert magnificat.bars[:2] == [(0, 1), (4, 1)]
    ranges = [np.median([note.pitch for note in part.notes]) for part in magnificat.parts]
    assert ranges == sorted(ranges, reverse=True)
    for part in magnificat.parts:
        assert all(
            a.end <= b.start + 1e-9 for a, b in zip(part.notes, part.notes[1:], strict=False)
        )


def test_an_upbeat_is_before_the_first_bar(bwv_scores):
    setting = bwv_scores[1]
    assert setting.bars[0][0] == 1.0
    assert setting.beats()[0] == 0.0


def test_settings_of_one_tune_are_one_song(bwv_scores):
    assert chorales.songs(bwv_scores) == ["bwv10.7", "bwv99.6", "bwv99.6"]


def test_chorale_instruments_can_play_their_voice_and_differ(bwv_scores):
    rng = np.random.default_rng(0)
    ranges = {program: r for family in chorales.CHOICES.values() for program, r in family.items()}
    soprano = set()
    for _ in range(50):
        programs = chorales._instruments(bwv_scores[0], rng)
        assert len(set(programs)) == 4
        soprano.add(synth.family(programs[0]))
        for program, part in zip(programs, bwv_scores[0].parts, strict=True):
            low, high = ranges[program]
            assert all(low - 2 <= note.pitch <= high + 2 for note in part.notes)
    assert len(soprano) >= 5


def test_band_instruments_stay_in_their_family():
    rng = np.random.default_rng(0)
    for program in (*range(128), DRUM_KIT):
        drawn = bands._instrument(program, rng)
        assert synth.family(drawn) == synth.family(program)
    assert len({bands._instrument(33, rng) for _ in range(50)}) == 6


def test_entries_are_named_for_keys(tmp_path):
    for name in ("bwv10.7.mxl", "bwv2.6.mxl", "bwv145-a.mxl"):
        (tmp_path / name).touch()
    found = chorales.find(tmp_path, PrepareScores(renditions=2, max_s=10.0))
    assert [entry.track for entry in found[:3]] == ["bwv2-6_r0", "bwv2-6_r1", "bwv10-7_r0"]
    assert len(found) == 6
