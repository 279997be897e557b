"""Approximate search: what it finds is scored exactly, and what it misses is measured and said."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from phalar.model import ModelConfig, Phalar, build_model
from phalar.search import Searcher, Wanted, approximate, codes, info, open_index, store
from phalar.search.store import Entry, Facts, State
from phalar.search.windows import Grid

faiss = pytest.importorskip("faiss", reason="pip install 'phalar[search]'")

GRID = Grid(window_s=5.0, hop_s=2.5)
WINDOWS = 8
FILES = 900
LOOP_EVERY = 50


@pytest.fixture(scope="module")
def model() -> Phalar:
    """Random weights, but for the similarity, which starts a training as the identity."""
    made = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()
    made.similarity.start_at_identity(5.0)
    return made


def alike(rows: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors that live in few dimensions, as those of music do, and hardly leave them."""
    few = rng.normal(size=(rows, 24)) * np.geomspace(1, 0.1, 24)
    whole = few @ np.linalg.qr(rng.normal(size=(1024, 24)))[0].T + rng.normal(
        0, 0.005, (rows, 1024)
    )
    return (whole / np.linalg.norm(whole, axis=1, keepdims=True)).astype(np.float32)


def write(folder: Path, vectors: np.ndarray, *, wants_codes: bool | None) -> None:
    """Write an index of made vectors: files of eight windows, one silent each, and some loops."""
    folder.mkdir(parents=True)
    store.write_facts(folder, Facts(folder.parent, "m", "m", GRID, wants_codes))
    vectors.tofile(folder / "vectors-0.f32")
    entries = [
        Entry(
            f"{'bass' if number % 3 else 'drums'} {number:04d}.wav",
            f"{number:064x}",
            1,
            1,
            seconds=3.0 if number % LOOP_EVERY == 0 else 22.5,
            first=number * WINDOWS,
            windows=WINDOWS,
            silent=(number % WINDOWS,),
        )
        for number in range(len(vectors) // WINDOWS)
    ]
    store.write_table(folder, entries, State("vectors-0.f32", len(vectors)))


@pytest.fixture(scope="module")
def made(tmp_path_factory, model) -> Path:
    folder = tmp_path_factory.mktemp("codes") / "stems" / ".phalar"
    write(folder, alike(FILES * WINDOWS, np.random.default_rng(1)), wants_codes=True)
    approximate.refresh(folder, model)
    return folder


def queries(index: store.Index, count: int, windows: int, seed: int) -> list[np.ndarray]:
    """Near rows of the index, as a mix is near to what fits."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(index.vectors) - windows, count)
    return [
        (index.vectors[row : row + windows] + rng.normal(0, 0.005, (windows, 1024))).astype("f4")
        for row in rows
    ]


def scores(found: list) -> dict[str, tuple[float, float]]:
    return {each.entry.path: (pytest.approx(each.score, abs=1e-5), each.start_s) for each in found}


def test_nearly_all_is_found_with_its_exact_score_and_start(made) -> None:
    index = open_index(made)
    near, exact = Searcher(index), Searcher(index, exact=True)
    shares = []
    for query in queries(index, 30, 1, seed=2):
        (found,), (best,) = near.search([query], Wanted()), exact.search([query], Wanted())
        assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)
        (everything,) = exact.search([query], Wanted(top=FILES))
        expected = scores(everything)
        for each in found:
            assert (each.score, each.start_s) == expected[each.entry.path]
        shares.append(len(scores(found).keys() & scores(best).keys()) / len(best))
    assert np.mean(shares) > 0.95
    # It read what the codes put first, and not all.
    assert 0 < near.candidates < len(index.vectors) / 4


def test_the_recall_that_is_told_is_that_of_other_queries_too(made) -> None:
    index = open_index(made)
    near, exact = Searcher(index), Searcher(index, exact=True)
    shares = []
    for query in queries(index, 60, 1, seed=5):
        found, best = (s.search([query], Wanted())[0] for s in (near, exact))
        shares.append(len(scores(found).keys() & scores(best).keys()) / 10)
    told = info.summary(index)
    assert told["search"] == "approximate"
    assert told["recall"] >= approximate.LEAST
    assert np.mean(shares) == pytest.approx(told["recall"], abs=0.04)


def test_what_codes_cannot_tell_is_searched_exactly(made) -> None:
    index = open_index(made)
    near, exact = Searcher(index), Searcher(index, exact=True)
    for windows, wanted in ((1, Wanted(exclude=frozenset({"bass"}))), (1, Wanted(top=FILES)),
                            (3, Wanted())):  # fmt: skip
        (query,) = queries(index, 1, windows, seed=3)
        found, best = (s.search([query], wanted)[0] for s in (near, exact))
        assert [each.entry.path for each in found] == [each.entry.path for each in best]
    (query,) = queries(index, 1, 1, seed=3)
    # One file less is no filter to speak of.
    (found,) = near.search([query], Wanted())
    not_this = frozenset({index.path_of(found[0].entry).resolve()})
    (others,) = near.search([query], Wanted(top=9, not_paths=not_this))
    assert [each.entry.path for each in others] == [each.entry.path for each in found[1:]]


def test_random_vectors_are_searched_exactly_and_that_is_said(tmp_path, model) -> None:
    folder = tmp_path / ".phalar"
    vectors = np.random.default_rng(1).normal(size=(6_000, 1024)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write(folder, vectors, wants_codes=True)
    approximate.refresh(folder, model)
    told = info.summary(open_index(folder))
    assert told["search"] == "exact"
    assert told["recall"] < approximate.LEAST
    assert Searcher(open_index(folder)).codes is None


def test_rows_that_came_later_are_found_until_they_get_codes(made, model, tmp_path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / ".phalar"))
    index = open_index(folder)
    rng = np.random.default_rng(7)
    new = alike(WINDOWS, rng)
    with (folder / "vectors-0.f32").open("ab") as file:
        new.tofile(file)
    entry = replace(index.entries[1], path="new.wav", sha256="n", first=len(index.vectors))
    state = replace(index.state, rows=len(index.vectors) + WINDOWS)
    store.write_table(folder, [*index.entries, entry], state)
    approximate.refresh(folder, model)
    assert open_index(folder).state.codes == index.state.codes  # too few to fit all anew
    (found,) = Searcher(open_index(folder)).search([new[:1]], Wanted())
    assert found[0].entry.path == "new.wav"


def test_codes_come_and_go_as_asked_and_damage_is_mended(made, model, tmp_path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / ".phalar"))
    facts = store.read_facts(folder)
    (there,) = folder.glob("codes-*")
    (there / codes.CODES).write_bytes(b"no codes")
    with pytest.raises(ValueError, match=r"damaged codes .*`phalar index update` makes them anew"):
        Searcher(open_index(folder))
    Searcher(open_index(folder), exact=True)
    (there / codes.FACTS).write_text("{}")
    approximate.refresh(folder, model)
    assert Searcher(open_index(folder)).codes is not None
    assert len(list(folder.glob("codes-*"))) == 1
    store.write_facts(folder, replace(facts, codes=None))
    approximate.refresh(folder, model)  # small: by itself it has none
    assert open_index(folder).state.codes is None
    assert not list(folder.glob("codes-*"))


def test_too_few_windows_have_no_codes(tmp_path, model, caplog) -> None:
    folder = tmp_path / ".phalar"
    write(folder, alike(80, np.random.default_rng(1)), wants_codes=True)
    approximate.refresh(folder, model)
    assert (
        "70 windows that are not silent, codes need 1000 or more; searched exactly" in caplog.text
    )
    assert open_index(folder).state.codes is None


@pytest.mark.parametrize("silent", [800, 1195])
def test_silent_windows_count_for_nothing(tmp_path, model, caplog, silent) -> None:
    folder = tmp_path / ".phalar"
    write(folder, alike(1200, np.random.default_rng(1)), wants_codes=True)
    index = open_index(folder)
    quiet = [
        replace(e, silent=tuple(w for w in range(WINDOWS) if e.first + w < silent))
        for e in index.entries
    ]
    store.write_table(folder, quiet, index.state)
    approximate.refresh(folder, model)
    assert f"{1200 - silent} windows that are not silent, codes need 1000 or more" in caplog.text
    assert open_index(folder).state.codes is None
