"""Import of the authors' Lightning checkpoint, without running anything that it says.

The file is a zip with a pickle, and a pickle is a program. torch's restricted unpickler knows
tensors and containers only; what else the file names is looked at before anything is read, and
must belong to the authors' own package, whose enum members become their plain values here.
"""

import hashlib
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from phalar.model.cqt import BINS
from phalar.model.phalar import ModelConfig, build_model
from phalar.model.weights import check_tensors, save_model

AUTHORS_PACKAGE = "contrastive_model."

# Our name of an entry, piece by piece, to theirs; whole names of the head come before its pieces.
RENAMED = (
    ("head.hidden.weight", "encoder.mlp.0.W.weight"),
    ("head.norm.gain", "encoder.mlp.1.weight"),
    ("head.activation.bias", "encoder.mlp.2.b"),
    ("head.output.weight", "encoder.mlp.3.W.weight"),
    ("pooling.projection.", "encoder.pooling.0.project_in.1."),
    ("similarity.projection.", "similarity.W.W."),
    ("encoder.lift.", "encoder.backbone.input_proj."),
    ("encoder.blocks.", "encoder.backbone.layers."),
    (".frequency.", ".freq_conv."),
    (".time.", ".time_conv."),
    (".point.", ".pointwise_op."),
    (".norm.", ".0."),
    (".mix.", ".1."),
    (".merge.", ".3."),
    (".scale", ".4.weight"),
    (".shrink.", ".compression."),
)

# Constants of their front end; ours makes its own. Their absence tells a model on mel features.
FRONT_END = {
    "encoder.cqt_extractor.0.lenghts": (BINS,),
    "encoder.cqt_extractor.0.cqt_kernels_real": (BINS, 1, 32768),
    "encoder.cqt_extractor.0.cqt_kernels_imag": (BINS, 1, 32768),
}

# Settings of the full model that no shape gives away.
SETTINGS = {
    "do_cqt": True,
    "pool_type": "spec_pool",
    "spec_pool_norm": "global",
    "spec_pool_complex_output": True,
    "complex_use_silu": False,
    "comparison_method": "bilinear_similarity",
}


def import_checkpoint(path: str | Path, directory: str | Path) -> Path:
    """Turn the authors' checkpoint into a model that `load_model` reads.

    Parameters
    ----------
    path : path
        A Lightning checkpoint of the full model, as the authors published it.
    directory : path
        Gets model.safetensors and model.json, which names the file and its sha256.

    Returns
    -------
    Path
        The directory.

    Raises
    ------
    ValueError
        Where the file is no such checkpoint, names anything to run, was trained with other
        settings, or has missing, extra or wrongly shaped entries; the text lists all of them.
    """
    source = Path(path)
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    checkpoint = _read(source)
    _check_settings(checkpoint.get("hyper_parameters", {}), source)
    theirs = checkpoint.get("state_dict")
    if not isinstance(theirs, dict) or not all(isinstance(v, Tensor) for v in theirs.values()):
        raise ValueError(f"{source}: state_dict is not a dictionary of tensors")
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(0))
    ours = model.state_dict()
    expected = {name: torch.empty(shape, device="meta") for name, shape in FRONT_END.items()}
    expected |= {official_name(name): tensor for name, tensor in ours.items()}
    check_tensors(theirs, expected, source=source)
    model.load_state_dict({name: theirs[official_name(name)] for name in ours})
    return save_model(model, directory, extra={"imported": {"file": source.name, "sha256": sha256}})


def official_name(name: str) -> str:
    """Give the authors' name of an entry of our state dict."""
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return name


def _read(path: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a checkpoint of torch.save (a zip file); download it again")
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        foreign = sorted(name for name in named if not name.startswith(AUTHORS_PACKAGE))
        if foreign:
            raise ValueError(
                f"{path}: refused, its pickle names more than tensors and the authors' enums: "
                f"{', '.join(foreign)}; take the file from the authors' release"
            )
        with torch.serialization.safe_globals([(_member_value, name) for name in named]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, TypeError, LookupError, EOFError) as error:
        # torch wraps the cause in advice to load without restriction.
        reason = str(error.__context__ or error).partition("\n")[0]
        raise ValueError(f"{path}: refused, its pickle cannot be read safely ({reason})") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: holds {type(checkpoint).__name__}, must be a dictionary")
    return checkpoint


def _member_value(value: object) -> str | int:
    """Stand for every enum class of the authors: a member is its value."""
    if not isinstance(value, str | int):
        raise UnpicklingError(f"an enum member of type {type(value).__name__}")
    return value


def _check_settings(found: object, path: Path) -> None:
    if not isinstance(found, dict):
        raise ValueError(
            f"{path}: hyper_parameters are {type(found).__name__}, must be a dictionary"
        )
    faults = [
        f"{name}: {found[name]!r}, must be {value!r}"
        for name, value in SETTINGS.items()
        if name in found and found[name] != value
    ]
    if faults:
        raise ValueError(f"{path}: not the full model; {'; '.join(faults)}")
