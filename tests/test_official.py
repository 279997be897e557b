"""The checkpoint importer: what it maps, what it refuses, and that nothing in a file runs."""

import enum
import os
import pickle
import sys
import types
import zipfile

import pytest
import torch

from phalar.model import ModelConfig, build_model, load_model
from phalar.model.official import FRONT_END, import_checkpoint, official_name


@pytest.fixture(scope="module")
def model():
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():  # many entries start alike, and mixing them up would go unseen
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def entries(model):
    kernels = {name: torch.zeros(shape) for name, shape in FRONT_END.items()}
    return kernels | {official_name(name): value for name, value in model.state_dict().items()}


@pytest.fixture
def authors(monkeypatch):
    """Make the authors' module exist, for as long as a file is written."""
    package, module = (
        types.ModuleType("contrastive_model"),
        types.ModuleType("contrastive_model.constants"),
    )
    module.Comparison = enum.Enum(
        "Comparison", {"BILINEAR": "bilinear_similarity", "COSINE": "cos"}
    )
    module.Comparison.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def write(path, entries, **settings):
    checkpoint = {"hyper_parameters": settings, "state_dict": entries, "epoch": 7}
    torch.save(checkpoint, path)
    return path


def test_an_imported_model_is_the_same_model(tmp_path, model, entries, authors, monkeypatch):
    path = write(
        tmp_path / "a.ckpt", entries, do_cqt=True, comparison_method=authors.Comparison.BILINEAR
    )
    for name in ("contrastive_model", "contrastive_model.constants"):
        monkeypatch.delitem(sys.modules, name)
    imported = load_model(import_checkpoint(path, tmp_path / "out"))
    assert "contrastive_model" not in sys.modules
    for name, value in model.state_dict().items():
        assert torch.equal(imported.state_dict()[name], value), name
    assert imported.extra["imported"]["file"] == "a.ckpt"
    assert len(imported.extra["imported"]["sha256"]) == 64


def test_every_entry_has_the_authors_name(entries):
    """Names as the published file has them, from paper and release."""
    assert len(entries) == 3 + 1 + 10 * 3 * 6 + 5 + 1 + 4 + 1
    expected = {"encoder.backbone.input_proj.weight": (8, 1, 1, 1)}
    for layer in range(10):
        channels = (8, 12, 12, 18, 18, 27, 27, 40, 40, 60)
        width = (8, 12, 12, 18, 18, 27, 27, 40, 40, 60)[layer]
        for part, middle, kernel in (
            ("freq_conv", width, (3, 1)),
            ("time_conv", width, (1, 3)),
            ("pointwise_op", 2 * width, (1, 1)),
        ):
            prefix = f"encoder.backbone.layers.{layer}.{part}"
            expected[f"{prefix}.0.weight"] = expected[f"{prefix}.0.bias"] = (width,)
            expected[f"{prefix}.1.weight"] = (middle, width, *kernel)
            expected[f"{prefix}.1.bias"] = (middle,)
            expected[f"{prefix}.3.weight"] = (width, middle, 1, 1)
            expected[f"{prefix}.4.weight"] = (width,)
        if layer % 2 == 0:
            name = f"encoder.backbone.layers.{layer}.compression.weight"
            expected[name] = (channels[layer + 1], width, 1, 3)
    expected |= {
        "encoder.pooling.0.project_in.1.weight": (80, 5760),
        "encoder.mlp.0.W.weight": (1024, 640),
        "encoder.mlp.1.weight": (512,),
        "encoder.mlp.2.b": (512,),
        "encoder.mlp.3.W.weight": (1024, 512),
        "similarity.W.W.weight": (1024, 512),
    }
    assert {name: tuple(value.shape) for name, value in entries.items()} == expected | FRONT_END


def test_all_wrong_entries_are_listed(tmp_path, entries):
    del entries["encoder.mlp.2.b"]
    entries["encoder.mlp.4.bias"] = torch.zeros(3)
    entries["similarity.W.W.weight"] = torch.zeros(512, 512)
    entries["encoder.mlp.1.weight"] = torch.zeros(512, dtype=torch.float16)
    with pytest.raises(ValueError, match="4 entries do not fit the model") as caught:
        import_checkpoint(write(tmp_path / "a.ckpt", entries), tmp_path / "out")
    for line in (
        "missing: encoder.mlp.2.b",
        "extra: encoder.mlp.4.bias",
        "similarity.W.W.weight: float32 (512, 512), must be float32 (1024, 512)",
        "encoder.mlp.1.weight: float16 (512,), must be float32 (512,)",
    ):
        assert line in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_of_other_settings_is_refused(tmp_path, entries, authors):
    method = authors.Comparison.COSINE
    path = write(tmp_path / "a.ckpt", entries, do_cqt=False, comparison_method=method)
    faults = "do_cqt: False, must be True; comparison_method: 'cos', must be 'bilinear_similarity'"
    with pytest.raises(ValueError, match=f"not the full model; {faults}"):
        import_checkpoint(path, tmp_path / "out")


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self):
        raise AssertionError("only there because pickle writes calls of callables alone")


def hostile(touch):
    return {
        "posix.system": Call(os.system, f"touch {touch}"),
        "builtins.eval": Call(eval, f"open({str(touch)!r}, 'w')"),
        "builtins.getattr": Call(Call(getattr, Call(__import__, "os"), "system"), f"touch {touch}"),
        "io.open": Call(open, str(touch), "w"),
        "pathlib.PosixPath": touch,
    }


@pytest.mark.parametrize("name", hostile("x"))
def test_a_hostile_file_is_refused_by_name_and_does_not_run(tmp_path, entries, name):
    touch = tmp_path / "touched"
    path = write(tmp_path / "a.ckpt", entries, harm=hostile(touch)[name])
    assert not touch.exists()
    with pytest.raises(ValueError, match=f"refused, its pickle names more than .*{name}"):
        import_checkpoint(path, tmp_path / "out")
    assert not touch.exists()
    assert not (tmp_path / "out").exists()


def rewrite_pickle(path, program):
    """Replace the pickle of a checkpoint by a program written by hand."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, program if name.endswith("data.pkl") else content)
    return path


NAMED = b"ccontrastive_model.constants\nos.system\n"
WORD = b"X\x02\x00\x00\x00id"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (NAMED + WORD + b"\x85R.", "holds str, must be a dictionary"),
        (NAMED + b".", "holds function, must be a dictionary"),
        (NAMED + WORD + WORD + b"\x86R.", "cannot be read safely .*takes 1 positional argument"),
        (NAMED + b"]\x85R.", "cannot be read safely .*enum member of type list"),
        (NAMED + b")\x81.", "cannot be read safely .*not a type object"),
        (NAMED + b"}b.", "cannot be read safely .*Can only build"),
        (b"(iposix\nsystem\n.", "cannot be read safely .*Unsupported operand"),
        (pickle.dumps(os.system, protocol=4), "cannot be read safely .*Unsupported operand"),
    ],
)
def test_a_pickle_written_by_hand_does_nothing(tmp_path, program, reason):
    """What stands for the authors' classes, whatever their names, gives one word at most."""
    path = rewrite_pickle(write(tmp_path / "a.ckpt", {}), b"\x80\x02" + program)
    with pytest.raises(ValueError, match=reason):
        import_checkpoint(path, tmp_path / "out")


def test_other_files_are_refused(tmp_path, entries):
    path = tmp_path / "a.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(ValueError, match=r"not a checkpoint of torch\.save"):
        import_checkpoint(path, tmp_path / "out")
    torch.save([1], path)
    with pytest.raises(ValueError, match="holds list, must be a dictionary"):
        import_checkpoint(path, tmp_path / "out")
    torch.save({"state_dict": {"a": 1}}, path)
    with pytest.raises(ValueError, match="state_dict is not a dictionary of tensors"):
        import_checkpoint(path, tmp_path / "out")
    content = write(path, entries).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"not a checkpoint of torch\.save"):
        import_checkpoint(path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        import_checkpoint(tmp_path / "nowhere.ckpt", tmp_path / "out")
