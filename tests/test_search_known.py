"""What is known of files beside their vectors: read anew where readings are old, heard in full."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_search_faults import (  # noqa: F401 - fixtures
    RATE_HZ,
    entries,
    failing_below,
    heard,
    library,
    model,
    update,
    write,
)

from phalar import audio
from phalar.model import Phalar
from phalar.search import estimate, hear, known, names, open_index, store
from phalar.search.windows import Grid


def as_read_before(library: Path) -> None:  # noqa: F811
    """Make the table one of the first readings: without their number, and with what they said."""
    index = open_index(library)
    said = {"a.wav": ("bass", 92.5, "name"), "sub/b.wav": ("drums", 120.0, "sound")}
    columns = ("instrument", "tempo_bpm", "tempo_from")
    old = [
        replace(entry, **dict(zip(columns, said.get(entry.path, (None, None, None)), strict=True)))
        for entry in index.entries
    ]
    store.write_table(index.folder, old, index.state)
    table = pq.read_table(index.folder / store.TABLE)
    state = json.loads(table.schema.metadata[b"state"])
    state.pop("readings", None)
    pq.write_table(
        table.replace_schema_metadata({"state": json.dumps(state)}), index.folder / store.TABLE
    )


def test_names_and_tags_are_read_anew_where_readings_are_old(library, model, monkeypatch) -> None:  # noqa: F811
    (library / "sub/c.wav").rename(library / "sub/Am bass 90bpm.wav")
    update(library, model)
    rows = np.array(open_index(library).vectors)
    as_read_before(library)
    assert names.telling("bass", ["a.wav"], [entries(library)["a.wav"].instrument]) == {0}
    monkeypatch.setattr(Phalar, "embed", lambda *_: pytest.fail("is heard"))
    built = update(library, model)
    assert (built.heard, built.kept, built.moved) == (0, 3, 0)
    after = entries(library)
    told = {path: (e.instrument, e.tempo_bpm, e.tempo_from) for path, e in after.items()}
    assert told == {
        "a.wav": (None, None, None),
        # What was heard stays; a sub is a bass.
        "sub/b.wav": ("bass", 120.0, "sound"),
        "sub/Am bass 90bpm.wav": ("bass", 90.0, "name"),
    }
    np.testing.assert_array_equal(open_index(library).vectors, rows)
    # From now on they are taken as they are.
    monkeypatch.setattr(known, "told", lambda *_: pytest.fail("is read"))
    assert update(library, model).kept == 3


def test_what_is_out_of_reach_is_read_anew_when_it_is_back(library, model, monkeypatch) -> None:  # noqa: F811
    as_read_before(library)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing_below(library / "sub"))
        assert update(library, model).kept == 1
    told = {path: entry.instrument for path, entry in entries(library).items()}
    assert told == {"a.wav": None, "sub/b.wav": "drums", "sub/c.wav": None}
    update(library, model)
    assert entries(library)["sub/b.wav"].instrument == "bass"


@pytest.mark.parametrize("seconds", [2.0, 50.0])
def test_the_start_of_a_file_is_kept_whole_whatever_its_blocks(
    model,  # noqa: F811
    tmp_path,
    monkeypatch,
    seconds,
) -> None:
    """Of high rates and many channels a block is short."""
    path = tmp_path / "long.wav"
    write(path, 1, seconds=seconds)
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 10 * RATE_HZ)
    found = hear.hear(
        model, path, grid=Grid(5, 5), status=path.stat(), sha256=hear.file_sha256(path)
    )
    most = round(estimate.HEARD_S * RATE_HZ)
    np.testing.assert_array_equal(found.first, audio.load_mono(path)[:most])
    assert len(found.first) == min(most, round(seconds * RATE_HZ))
