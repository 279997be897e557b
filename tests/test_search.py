"""Index and search: exact against brute force, what changed on disk, and what cannot be heard."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from phalar import audio
from phalar.model import ModelConfig, Phalar, build_model
from phalar.search import (
    Moment,
    Searcher,
    Wanted,
    build,
    change,
    hear,
    info,
    open_index,
    rendering,
    store,
    writing,
)
from phalar.search.check import differences
from phalar.search.fit import fit
from phalar.search.moment import query_vectors, read_moment, windows_of
from phalar.search.query import Found
from phalar.search.windows import Grid, cut

RATE_HZ = 16_000
GRID = Grid(window_s=1.0, hop_s=0.5)


@pytest.fixture(scope="module")
def model() -> Phalar:
    return build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()


def tones(seconds: float, rate_hz: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    hz = rng.uniform(60, 2000, 6)[:, None]
    beat = 0.2 + np.exp(-6 * (time_s * rng.uniform(1, 3) % 1))
    return (0.05 * beat * np.sin(2 * np.pi * hz * time_s).sum(0)).astype(np.float32)


@pytest.fixture(scope="module")
def stems(tmp_path_factory) -> Path:
    """Sound of several kinds, a loop, a copy, and four that cannot be heard."""
    root = tmp_path_factory.mktemp("search") / "stems"
    (root / "song one").mkdir(parents=True)
    for seed, (name, rate_hz, seconds) in enumerate(
        [("song one/bass_120bpm_Am.wav", 44_100, 3.2), ("song one/drums.flac", 48_000, 2.0),
         ("guitar.aiff", 22_050, 2.6), ("keys.ogg", 44_100, 1.7), ("piano.mp3", 44_100, 2.2),
         ("loop.wav", 16_000, 0.7)]
    ):  # fmt: skip
        soundfile.write(root / name, tones(seconds, rate_hz, seed), rate_hz)
    shutil.copy(root / "guitar.aiff", root / "song one/guitar copy.aiff")
    (root / "page.wav").write_text("<html>")
    (root / "empty.flac").touch()
    soundfile.write(root / "silence.wav", np.zeros(32_000), RATE_HZ)
    soundfile.write(root / "hit.wav", tones(0.2, RATE_HZ, 9), RATE_HZ)
    (root / "notes.txt").write_text("no sound")
    (root / ".hidden.wav").write_text("left alone")
    return root


@pytest.fixture(scope="module")
def indexed(stems, model) -> Path:
    """The same with its index."""
    root = stems.parent / "indexed"
    shutil.copytree(stems, root)
    update(root, model)
    return root


@pytest.fixture
def bare(stems, tmp_path) -> Path:
    """A copy without an index."""
    return Path(shutil.copytree(stems, tmp_path / "stems"))


@pytest.fixture
def library(indexed, tmp_path) -> Path:
    """A copy with its index."""
    return Path(shutil.copytree(indexed, tmp_path / "stems"))


def update(library: Path, model: Phalar, *, sha256: str = "m") -> build.Built:
    return build.update(
        library, library / ".phalar", model, model_name="m", model_sha256=sha256, grid=GRID
    )


def names(index: store.Index) -> dict[str, store.Entry]:
    return {entry.path: entry for entry in index.entries}


def test_windows_are_where_the_grid_says_and_loops_go_round() -> None:
    sound = np.arange(round(2.7 * RATE_HZ), dtype=np.float32)
    blocks = np.split(sound, [100, 20_000, 20_001])
    windows = list(cut(blocks, GRID))
    starts_s = GRID.starts_s(2.7, len(windows))
    assert starts_s.tolist() == [0, 0.5, 1, 1.5]
    for window, start_s in zip(windows, starts_s, strict=True):
        start = round(start_s * RATE_HZ)
        np.testing.assert_array_equal(window, sound[start : start + RATE_HZ])
    short = sound[:12_000]
    windows = list(cut([short[:5000], short[5000:]], GRID))
    for window, start_s in zip(windows, GRID.starts_s(0.75, len(windows)), strict=True):
        start = round(start_s * RATE_HZ)
        np.testing.assert_array_equal(window, np.tile(short, 3)[start : start + RATE_HZ])
    with pytest.raises(ValueError, match=r"0.40 s long, must be 0.5 s or more"):
        list(cut([sound[:6400]], GRID))


def test_everything_is_heard_or_listed_with_its_reason(bare, model) -> None:
    built = update(bare, model)
    assert (built.heard, built.kept, built.moved, built.removed) == (6, 0, 1, 0)
    reasons = dict(built.broken)
    assert list(reasons) == ["empty.flac", "hit.wav", "page.wav", "silence.wav"]
    assert reasons["page.wav"].startswith("cannot be decoded")
    assert reasons["hit.wav"] == "0.20 s long, must be 0.5 s or more"
    assert reasons["silence.wav"] == "holds silence only"
    found = names(open_index(bare))
    bass = found["song one/bass_120bpm_Am.wav"]
    assert (bass.instrument, bass.tempo_bpm, bass.key, bass.windows) == ("bass", 120, "Am", 5)
    assert found["guitar.aiff"].first == found["song one/guitar copy.aiff"].first
    summed = info.summary(open_index(bare))
    assert (summed["files"], len(summed["broken"])) == (7, 4)


def test_vectors_are_those_of_the_sound_and_the_score_is_the_models(library, model) -> None:
    index = open_index(library)
    mix = library / "song one/bass_120bpm_Am.wav"
    heard = read_moment([mix], Moment(0.5), GRID).sound
    queries = query_vectors(model, windows_of(heard, GRID))
    (found,) = Searcher(index).search([queries], Wanted(top=100))
    assert len(found) == 6
    asked = model.embed(heard, RATE_HZ)
    for each in found:
        sound = audio.load_mono(index.path_of(each.entry))
        scores = [float(model.score(asked, model.embed(window, RATE_HZ)))
                  for window in cut([sound], GRID)]  # fmt: skip
        assert each.score == pytest.approx(max(scores), abs=1e-5)
        starts_s = GRID.starts_s(each.entry.seconds, each.entry.windows)
        assert each.start_s == pytest.approx(starts_s[int(np.argmax(scores))])
    assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)


def test_a_longer_moment_asks_for_windows_that_follow_each_other(library, model) -> None:
    index = open_index(library)
    heard = read_moment([library / "guitar.aiff"], Moment(0.0, 2.0), GRID).sound
    queries = query_vectors(model, windows_of(heard, GRID))
    assert len(queries) == 3
    (found,) = Searcher(index).search([queries], Wanted(top=100))
    vectors = np.asarray(index.vectors)
    expected = {}
    for entry in index.entries:
        rows = vectors[entry.first : entry.first + entry.windows]
        if 0 < entry.seconds < GRID.window_s:
            expected[entry.path] = float((rows @ queries[0]).max())
        elif len(rows) >= 3:
            sums = [np.trace(rows[at : at + 3] @ queries.T) / 3 for at in range(len(rows) - 2)]
            expected[entry.path] = float(max(sums))
    expected.pop("song one/guitar copy.aiff")
    assert {each.entry.path: pytest.approx(each.score, abs=1e-5) for each in found} == expected


def test_filters_ask_for_instruments_and_words_of_the_path(library, model) -> None:
    searcher = Searcher(open_index(library))
    rng = np.random.default_rng(1)
    query = rng.normal(size=(1, 1024)).astype(np.float32)

    def paths(**wanted: object) -> set[str]:
        return {each.entry.path for each in searcher.search([query], Wanted(**wanted))[0]}

    assert paths(instruments=frozenset({"bass"})) == {"song one/bass_120bpm_Am.wav"}
    # A copy stands for its original where that one is not asked for.
    assert paths(instruments=frozenset({"song one"}), exclude=frozenset({"drums"})) == {
        "song one/bass_120bpm_Am.wav",
        "song one/guitar copy.aiff",
    }
    assert "guitar.aiff" not in paths(not_paths=frozenset({(library / "guitar.aiff").resolve()}))
    copied = frozenset({names(searcher.index)["guitar.aiff"].sha256})
    assert paths() - paths(not_sha256=copied) == {"guitar.aiff"}
    assert paths(instruments=frozenset({"tuba"})) == set()
    assert len(paths(top=2)) == 2


def test_an_update_hears_only_what_is_new(library, model, monkeypatch) -> None:
    before = names(open_index(library))
    heard = []
    embed = hear.embed_windows
    monkeypatch.setattr(hear, "embed_windows", lambda *given: (heard.append(1), embed(*given))[1])
    (library / "keys.ogg").rename(library / "song one/rhodes.ogg")
    (library / "song one/drums.flac").touch()
    (library / "loop.wav").unlink()
    soundfile.write(library / "new.wav", tones(2, RATE_HZ, 20), RATE_HZ)
    assert {what for _, what in differences(open_index(library))} == {"gone", "new"}
    built = update(library, model)
    assert (built.heard, built.moved, built.removed, len(heard)) == (1, 2, 1, 1)
    after = names(open_index(library))
    assert after["song one/rhodes.ogg"].first == before["keys.ogg"].first
    assert "loop.wav" not in after
    assert differences(open_index(library)) == []
    # Nothing to do is nothing done.
    again = update(library, model)
    assert (again.heard, again.moved, again.kept) == (0, 0, len(after))


def test_vectors_of_files_that_are_gone_are_dropped_in_time(library, model) -> None:
    first = open_index(library)
    rows = {e.path: np.array(first.vectors[e.first : e.first + e.windows]) for e in first.entries}
    for name in ("song one/bass_120bpm_Am.wav", "piano.mp3"):
        (library / name).unlink()
    update(library, model)
    second = open_index(library)
    assert len(second.vectors) < len(first.vectors)
    assert len(list((library / ".phalar").glob("vectors-*"))) == 1
    for entry in second.entries:
        here = second.vectors[entry.first : entry.first + entry.windows]
        np.testing.assert_array_equal(here, rows[entry.path])


def test_an_opened_index_stays_as_it_was(library, model) -> None:
    """Rows of a file that is gone are neither cut off nor written over: somebody reads them."""
    opened = open_index(library)
    before = np.array(opened.vectors)
    last = max(opened.entries, key=lambda entry: entry.first)
    for entry in opened.entries:
        if entry.sha256 == last.sha256:
            opened.path_of(entry).unlink()
    update(library, model)
    soundfile.write(library / "new.wav", tones(0.8, RATE_HZ, 20), RATE_HZ)
    update(library, model)
    np.testing.assert_array_equal(opened.vectors, before)


def test_interrupted_goes_on_where_it_was(bare, indexed, model, monkeypatch) -> None:
    embed = hear.embed_windows
    calls = []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(*given)

    monkeypatch.setattr(hear, "embed_windows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update(bare, model)
    # Half a row, as a killed process leaves it.
    with next((bare / ".phalar").glob("vectors-*")).open("ab") as file:
        file.write(b"\x01" * 1000)
    built = update(bare, model)
    assert (built.heard, built.kept) == (5, 2)
    continued, at_once = open_index(bare), open_index(indexed)
    assert names(continued).keys() == names(at_once).keys()
    for path, entry in names(continued).items():
        other = names(at_once)[path]
        np.testing.assert_array_equal(
            continued.vectors[entry.first : entry.first + entry.windows],
            at_once.vectors[other.first : other.first + other.windows],
        )


def test_refusals(library, model, tmp_path_factory) -> None:
    with pytest.raises(FileNotFoundError, match="no index there; make one with"):
        open_index(tmp_path_factory.mktemp("none"))
    with pytest.raises(ValueError, match="made with the model m"):
        update(library, model, sha256="another")
    folder = library / ".phalar"
    with (
        writing.locked(folder),
        pytest.raises(ValueError, match="another process is updating this index"),
    ):
        update(library, model)
    with pytest.raises(ValueError, match="a moment must be that long or longer"):
        read_moment([library / "guitar.aiff"], Moment(0, 0.6), GRID)
    with pytest.raises(ValueError, match=r"ends at 2.6 s, before the moment at 9 s"):
        read_moment([library / "guitar.aiff"], Moment(9), GRID)
    with pytest.raises(ValueError, match="silent from 0 s"):
        read_moment([library / "silence.wav"], Moment(0), GRID)
    vectors = next(folder.glob("vectors-*"))
    with vectors.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(ValueError, match="1 vectors, its table names"):
        open_index(library)
    (folder / "files.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="damaged index"):
        open_index(library)


def test_a_name_that_is_no_text_is_listed(library, model) -> None:
    shutil.copy(library / "loop.wav", bytes(library) + b"/\xff.wav")
    assert dict(update(library, model).broken)[r"\xff.wav"] == (
        "cannot be read: its name is not UTF-8; rename it"
    )


@pytest.mark.parametrize(("st", "factor"), [(5, 1.0), (-7, 1.0), (0, 1.25), (3, 0.8)])
def test_changes_do_to_a_tone_what_they_say(st, factor) -> None:
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * 440 * time_s).astype(np.float32)
    changed = change.apply(tone, change.Change(st, factor))
    assert len(changed) == pytest.approx(len(tone) / factor, abs=1)
    middle = changed[len(changed) // 4 : -len(changed) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    peak_hz = np.argmax(spectrum) * RATE_HZ / len(middle)
    assert peak_hz == pytest.approx(440 * 2 ** (st / 12), rel=0.01)


def test_changes_are_listed_once_and_checked() -> None:
    assert change.changes((0, 0), (1, 1)) == [change.NONE]
    tried = change.changes((-6, 6), (0.9, 1.1))
    assert tried[0] == change.NONE
    assert len(tried) == len(set(tried))
    assert {each.transpose_st for each in tried} == set(range(-6, 7))
    # Most that is wanted is transposed at the tempo it has.
    at_tempo = {each.transpose_st for each in tried if each.stretch == 1}
    assert at_tempo == set(range(-6, 7))
    factors = sorted({each.stretch for each in tried})
    assert (len(factors), factors[0], factors[-1]) == (11, 0.9, 1.1)
    assert all(1.015 < fast / slow < 1.025 for slow, fast in itertools.pairwise(factors))
    one_sided = {each.stretch for each in change.changes((0, 0), (1.1, 1.2))}
    assert {1.0, 1.1, 1.2} < one_sided
    assert 1.0 in {each.stretch for each in change.changes((2, 2), (0.997, 1.2))}
    assert change.changes((5, 5), (1, 1)) == [change.NONE, change.Change(5)]
    with pytest.raises(ValueError, match=r"transpose 3\.\.1: must rise"):
        change.changes((3, 1), (1, 1))
    with pytest.raises(ValueError, match=r"stretch 0\.1\.\.1: must rise"):
        change.changes((0, 0), (0.1, 1))


def test_a_change_is_scored_as_it_will_sound(library, model) -> None:
    searcher = Searcher(open_index(library))
    mix = read_moment([library / "piano.mp3"], Moment(), GRID)
    tried = change.changes((0, 2), (1, 1))
    found = fit(model, searcher, mix, Wanted(top=6), tried, refine=False)
    plain = fit(model, searcher, mix, Wanted(top=6), refine=False)
    assert len({each.entry.path for each in found}) == len(found) == 6
    before = {each.entry.path: each.score for each in plain}
    for each in found:
        assert each.score >= before[each.entry.path]
        sound = change.read_from(searcher, each, mix.samples)
        score = model.score(model.embed(mix.sound, RATE_HZ), model.embed(sound, RATE_HZ))
        assert each.score == pytest.approx(float(score), abs=1e-3)


def test_export_copies_bytes_and_renders_aligned_at_matched_loudness(library, model) -> None:
    searcher = Searcher(open_index(library))
    entry = names(searcher.index)["song one/bass_120bpm_Am.wav"]
    found = Found(entry, score=1.0, start_s=1.0)
    mix = read_moment([library / "guitar.aiff"], Moment(), GRID).sound
    copy, rendering_path = rendering.export(searcher, [found], mix, library.parent / "out")
    assert copy.read_bytes() == searcher.index.path_of(entry).read_bytes()
    heard, rate_hz = soundfile.read(rendering_path, dtype="float32")
    assert (rate_hz, len(heard)) == (RATE_HZ, len(mix))
    candidate = audio.load_mono(copy)[RATE_HZ : 2 * RATE_HZ]
    np.testing.assert_allclose(heard, rendering.in_context(mix, candidate), atol=1e-4)
    gains = np.linalg.lstsq(np.stack([mix, candidate], 1), heard, rcond=None)[0]
    softer_db = rendering.loudness_db(mix * gains[0]) - rendering.loudness_db(candidate * gains[1])
    assert softer_db == pytest.approx(-rendering.CANDIDATE_DB, abs=0.2)
    assert np.abs(heard).max() <= rendering.PEAK + 1e-4


def test_names_of_files_come_out_harmless() -> None:
    assert rendering.safe_name("../..//etc/pass wd<script>") == "etc_pass_wd_script"
    assert rendering.safe_name("...") == "stem"
    assert rendering.safe_name("cafe\u0301") == "caf\xe9"
    assert rendering.safe_name("x" * 199 + ". y") == "x" * 199


@pytest.mark.parametrize("letter", ["\u30c9", "\xe9", "\U0001f941", "\U00020bb7"])
def test_a_name_of_any_script_is_exported(library, model, tmp_path, letter) -> None:
    """A file system counts bytes: of most scripts 80 letters are far more than 80."""
    name = (letter * 80).encode()[:240].decode(errors="ignore") + ".wav"
    searcher = Searcher(open_index(library))
    (library / "loop.wav").rename(library / name)
    entry = replace(names(searcher.index)["loop.wav"], path=name)
    mix = read_moment([library / "guitar.aiff"], Moment(), GRID).sound
    found = [Found(entry, score=1.0, start_s=0.0)]
    written = rendering.export(searcher, found, mix, tmp_path / "out")
    assert [path.is_file() for path in written] == [True, True]
