"""Files of a model: the same bits come back, and what is damaged or foreign is refused."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from phalar.model import VARIANTS, ModelConfig, build_model, load_model, save_model

PARAMETERS = 2_293_104


def make(variant="full"):
    return build_model(ModelConfig(variant), generator=torch.Generator().manual_seed(1)).eval()


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_model_is_rebuilt_bit_for_bit(tmp_path, variant):
    model = make(variant)
    assert save_model(model, tmp_path / "a", extra={"step": 3}) == tmp_path / "a"
    wave_BN = torch.randn(2, 8_000, generator=torch.Generator().manual_seed(2))
    for path in (tmp_path / "a", str(tmp_path / "a" / "model.safetensors")):
        loaded = load_model(path)
        assert not loaded.training
        assert loaded.config == model.config
        assert loaded.extra == {"step": 3}
        assert torch.equal(loaded.embed(wave_BN, 16_000), model.embed(wave_BN, 16_000))
    save_model(loaded, tmp_path / "b")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]


@pytest.fixture
def saved(tmp_path, model):
    return save_model(model, tmp_path / "model")


def edit_facts(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, edit):
    """Change the weights and make the checksum fit them again."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    edit_facts(folder, sha256=hashlib.sha256(content).hexdigest())


def test_saving_says_what_the_model_is(saved):
    facts = json.loads((saved / "model.json").read_text())
    assert facts["format"] == 1
    assert facts["model"] == {"variant": "full", "dropout": 0.1}
    assert facts["front_end"]["sample_rate_hz"] == 16_000
    assert facts["parameters"] == PARAMETERS


def test_damaged_weights_are_refused(saved):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="one of them is damaged or another model's"):
        load_model(saved)
    path.write_bytes(content[:1000])
    with pytest.raises(ValueError, match=r"sha256 is .*, the \.json beside it says"):
        load_model(saved)
    edit_facts(saved, sha256=hashlib.sha256(content[:1000]).hexdigest())
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_model(saved)


def test_weights_that_do_not_fit_are_listed(saved):
    def edit(tensors):
        tensors["head.more"] = torch.zeros(1)
        tensors["head.norm.gain"] = torch.ones(511)
        tensors["head.activation.bias"] = tensors["head.activation.bias"].half()
        del tensors["head.hidden.weight"]

    edit_tensors(saved, edit)
    with pytest.raises(ValueError, match="4 entries do not fit the model") as caught:
        load_model(saved)
    for line in (
        "extra: head.more",
        "missing: head.hidden.weight",
        r"head.norm.gain: float32 (511,), must be float32 (512,)",
        r"head.activation.bias: float16 (512,), must be float32 (512,)",
    ):
        assert line in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2; this version of phalar reads format 1"),
        ({"model": {"variant": "huge"}}, r"cannot build the model .*'huge' is unknown"),
        ({"model": {"width": 3}}, r"cannot build the model .*'width'"),
        ({"model": "full"}, "model missing or damaged"),
        ({"extra": None, "sha256": 1}, "sha256, extra missing or damaged"),
        ({"front_end": {"kind": "mel"}}, "load it with the version that wrote it"),
        ({"model": {"variant": "gap"}}, "entries do not fit the model"),
    ],
)
def test_foreign_facts_are_refused(saved, changes, message):
    edit_facts(saved, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(saved)


def test_files_of_other_kinds_are_refused(saved, tmp_path):
    (saved / "model.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_model(saved)
    (saved / "model.json").write_text("[1]")
    with pytest.raises(ValueError, match="format None"):
        load_model(saved)
    (saved / "model.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.json: no such file; a model is a"):
        load_model(saved)
    with pytest.raises(FileNotFoundError, match=r"nowhere/model\.safetensors: no such file"):
        load_model(tmp_path / "nowhere")


def test_facts_that_json_cannot_hold_leave_nothing_behind(tmp_path, model):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_model(model, tmp_path, extra={"loss": float("nan")})
    assert not list(tmp_path.iterdir())
