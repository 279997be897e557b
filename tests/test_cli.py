"""The command: what it prints, its exit codes, and errors of one line."""

import json

import numpy as np
import pytest
import soundfile
import torch

import phalar
from phalar import cli
from phalar.model import ModelConfig, build_model, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, two sound files, and one that is none."""
    root = tmp_path_factory.mktemp("cli")
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1))
    save_model(model, root / "model")
    rng = np.random.default_rng(1)
    soundfile.write(root / "a.wav", rng.normal(0, 0.1, (2 * 44_100, 2)), 44_100)
    soundfile.write(root / "b.flac", rng.normal(0, 0.1, 2 * 16_000), 16_000)
    (root / "page.wav").write_text("<html>")
    return root


def test_score_prints_what_python_gives(call, folder) -> None:
    expected = phalar.score(
        phalar.load_model(folder / "model"), folder / "a.wav", folder / "b.flac"
    )
    code, out, _ = call("score a.wav b.flac --model model")
    assert (code, out) == (0, f"{expected:.4f}\n")
    code, out, _ = call("score a.wav b.flac --model model --json")
    record = json.loads(out)
    assert record["score"] == pytest.approx(expected)
    assert (record["a"], record["b"], record["model"]) == ("a.wav", "b.flac", "model")


def test_embed_gives_all_numbers_as_json_and_as_file(call, folder) -> None:
    code, out, _ = call("embed a.wav b.flac --model model --json --out z.npy")
    z = np.load(folder / "z.npy")
    assert (code, z.shape, z.dtype) == (0, (2, 512), np.complex64)
    for row, record in zip(z, json.loads(out), strict=True):
        np.testing.assert_allclose(row, np.array(record["real"]) + 1j * np.array(record["imag"]))
    code, out, _ = call("embed a.wav --model model")
    assert code == 0
    assert out.startswith("a.wav: ")
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ("score a.wav", 2, "Missing argument 'b'; see `phalar --help`"),
        ("score a.wav nowhere.wav", 2, "nowhere.wav: no such file"),
        ("score a.wav b.flac", 2, "data/train: no such model"),
        ("score a.wav b.flac --model elsewhere", 2, "no registry mlflow.db here"),
        ("score a.wav b.flac --from -1", 2, "Invalid value for '--from'"),
        ("sing a.wav", 2, "No such command 'sing'"),
        ("embed a.wav --model model --out z.txt", 2, "--out z.txt: must end in .npy"),
        ("score a.wav page.wav --model model", 1, "page.wav: cannot be decoded"),
        ("score a.wav b.flac --model model --from 5", 1, "ends at 2.0 s, before the moment at 5 s"),
        ("lineage", 1, "data/register/lineage.json: no such file; run the register stage"),
        ("import-checkpoint page.wav --out x", 1, "page.wav"),
    ],
)
def test_error_is_one_line_with_its_exit_code(call, words, code, why) -> None:
    found, out, err = call(words)
    assert found == code
    assert out == ""
    assert err.startswith("phalar: ")
    assert err.count("\n") == 1
    assert why in err


@pytest.mark.parametrize("words", ["--debug score a.wav page.wav --model model",
                                   "score a.wav page.wav --model model --debug"])  # fmt: skip
def test_debug_lets_the_traceback_out(folder, monkeypatch, words) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="cannot be decoded"):
        cli.main(words.split())


def test_bug_of_ours_is_one_line_too(call, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(phalar, "score", fail, raising=False)
    code, _, err = call("score a.wav b.flac --model model")
    assert (code, err) == (1, "phalar: ZeroDivisionError: by zero; --debug shows where\n")


def test_help_names_every_command(call) -> None:
    for words in ("", "--help"):
        code, out, _ = call(words)
        assert code == 0
        for command in ("score", "embed", "import-checkpoint", "lineage"):
            assert command in out


def test_lineage_prints_json_as_it_is(call, folder) -> None:
    record = {"format": 2, "model": {"name": "phalar"}}
    (folder / "lineage.json").write_text(json.dumps(record))
    code, out, _ = call("lineage lineage.json --json")
    assert (code, json.loads(out)) == (0, record)
