"""A model on disk: model.safetensors with the weights, model.json with all that rebuilds it.

Neither file can execute anything, and neither needs the configuration that the model was trained
with.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from phalar.model.cqt import BINS, BINS_PER_OCTAVE, HOP_SAMPLES, LOWEST_HZ, SAMPLE_RATE_HZ
from phalar.model.frontend import (
    FFT_SAMPLES,
    HARMONIC_PERCUSSIVE_BINS,
    HIGHEST_MEL_HZ,
    LOWEST_MEL_HZ,
    RANGE_DB,
    WINDOW_SAMPLES,
)
from phalar.model.phalar import ModelConfig, Phalar, build_model

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
FACTS_FILE = "model.json"


def save_model(
    model: Phalar, directory: str | Path, *, extra: dict[str, Any] | None = None
) -> Path:
    """Write a model so that `load_model` gives the same bits again.

    Parameters
    ----------
    model : Phalar
        On any device.
    directory : path
        Made where missing; both files are written aside, read back and renamed.
    extra : dict or None
        Facts to keep with the model (training, lineage), as JSON can hold them; `None` keeps those
        that it was loaded with.

    Returns
    -------
    Path
        The directory.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    weights = save(tensors)
    facts = {
        "format": FORMAT,
        "model": asdict(model.config),
        "front_end": front_end_facts(model.config.variant),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "extra": model.extra if extra is None else extra,
    }
    text = json.dumps(facts, indent=2, allow_nan=False) + "\n"
    files = {folder / WEIGHTS_FILE: weights, folder / FACTS_FILE: text.encode()}
    for path, content in files.items():
        _write_aside(path, content)
    # The facts go last: between the two renames the checksum does not fit, and nothing loads.
    for path in files:
        _aside(path).replace(path)
    return folder


def load_model(path: str | Path) -> Phalar:
    """Read a model that `save_model` wrote, ready to embed (evaluation mode, CPU).

    Parameters
    ----------
    path : path
        The directory, or the .safetensors file with its .json beside it.

    Returns
    -------
    Phalar
        With the same bits as the saved one; `model.extra` holds what was kept with it.

    Raises
    ------
    FileNotFoundError
        Where one of the two files is missing.
    ValueError
        Where they are damaged, of another format, or do not fit each other; the text says how.
    """
    weights_path = Path(path)
    if weights_path.suffix != ".safetensors":
        weights_path = weights_path / WEIGHTS_FILE
    facts_path = weights_path.with_suffix(".json")
    for needed in (weights_path, facts_path):
        if not needed.is_file():
            raise FileNotFoundError(
                f"{needed}: no such file; a model is a .safetensors and a .json beside it"
            )
    facts = _read_facts(facts_path)
    tensors = _read_tensors(weights_path, facts["sha256"])
    try:
        config = ModelConfig(**facts["model"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{facts_path}: this version of phalar cannot build the model ({error})"
        ) from error
    front_end = front_end_facts(config.variant)
    if facts["front_end"] != front_end:
        raise ValueError(
            f"{facts_path}: front end {facts['front_end']} is not this version's {front_end}; "
            "load it with the version that wrote it"
        )
    model = build_model(config, generator=torch.Generator().manual_seed(0))
    check_tensors(tensors, model.state_dict(), source=weights_path)
    model.load_state_dict(tensors)
    model.extra, model.sha256 = facts["extra"], facts["sha256"]
    return model.eval()


def front_end_facts(variant: str) -> dict[str, float | str]:
    """Say what a variant's front end computes, so that a saved model can be held against it."""
    shared = {"sample_rate_hz": SAMPLE_RATE_HZ, "hop_samples": HOP_SAMPLES, "range_db": RANGE_DB}
    mel = {
        "fft_samples": FFT_SAMPLES,
        "window_samples": WINDOW_SAMPLES,
        "lowest_hz": LOWEST_MEL_HZ,
        "highest_hz": HIGHEST_MEL_HZ,
    }
    constant_q = {"lowest_hz": LOWEST_HZ, "bins_per_octave": BINS_PER_OCTAVE}
    if variant == "cocola":
        return {"kind": "harmonic-percussive", "bins": HARMONIC_PERCUSSIVE_BINS, **shared, **mel}
    if variant == "mel":
        return {"kind": "mel", "bins": BINS, **shared, **mel}
    return {"kind": "constant-q", "bins": BINS, **shared, **constant_q}


def check_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], *, source: Path) -> None:
    """Raise a ValueError that lists every missing, extra, wrongly shaped or wrongly typed entry."""
    faults = [f"missing: {name}" for name in expected if name not in found]
    faults += [f"extra: {name}" for name in found if name not in expected]
    for name in found.keys() & expected.keys():
        is_kind, must_kind = _kind(found[name]), _kind(expected[name])
        if is_kind != must_kind:
            faults.append(f"{name}: {is_kind}, must be {must_kind}")
    if faults:
        raise ValueError(
            f"{source}: {len(faults)} entries do not fit the model\n" + "\n".join(sorted(faults))
        )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); export the model again") from error
    found = facts.get("format") if isinstance(facts, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: format {found!r}; this version of phalar reads format {FORMAT}")
    kinds = {"model": dict, "front_end": dict, "sha256": str, "extra": dict}
    faults = [name for name, kind in kinds.items() if not isinstance(facts.get(name), kind)]
    if faults:
        raise ValueError(f"{path}: {', '.join(faults)} missing or damaged; export the model again")
    return dict(facts)


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path}: sha256 is {found[:12]}..., the .json beside it says {sha256[:12]}...; "
            "one of them is damaged or another model's, export the model again"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from error


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _write_aside(path: Path, content: bytes) -> None:
    with _aside(path).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if _aside(path).read_bytes() != content:
        raise OSError(f"{_aside(path)}: reads back differently than written; check the disk")
