"""Every stage against what the authors' code computed, where the reference files are at hand.

The folder that PHALAR_PARITY names holds reference.ckpt.gz, a checkpoint in the authors' format,
and reference.npz: five sounds and, stage by stage, their values. The repository holds no copy.
`pytest tests/test_parity.py --log-cli-level=INFO` reports the error of every stage.
"""

import gzip
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from phalar.model.complex_layers import to_complex
from phalar.model.official import import_checkpoint
from phalar.model.weights import load_model

logger = logging.getLogger("phalar.tests.parity")

# One clip a call: the authors' dB floor belongs to the whole batch, ours to the clip.
CLIPS = range(5)
# Relative error of the norm, the worst clip's; of decibels the largest error, 1 being 80 dB.
BARS = {
    "cqt": 1e-5,
    "db": 2e-4,
    "backbone": 1e-3,
    "pooled": 1e-3,
    "embedding": 1e-3,
    "similarity": 1e-3,
    "similarity_symmetric": 1e-3,
}


@pytest.fixture(scope="module")
def reference():
    folder = os.environ.get("PHALAR_PARITY")
    if folder is None:
        pytest.skip("PHALAR_PARITY names no folder with the authors' reference values")
    return Path(folder)


@pytest.fixture(scope="module")
def errors(reference, tmp_path_factory):
    """Compute every stage of every clip, and compare."""
    work = tmp_path_factory.mktemp("parity")
    checkpoint = work / "reference.ckpt"
    checkpoint.write_bytes(gzip.decompress((reference / "reference.ckpt.gz").read_bytes()))
    model = load_model(import_checkpoint(checkpoint, work / "model"))
    with np.load(reference / "reference.npz") as file:
        expected = {name: torch.from_numpy(file[name]) for name in file.files}
    found = {}
    with torch.inference_mode():
        for clip in CLIPS:
            stages = compute_stages(model, expected[f"wave{clip}"])
            found |= {f"{stage}{clip}": value for stage, value in stages.items()}
        z_BRD = torch.stack([found[f"embedding{clip}"] for clip in CLIPS])
        found["similarity"] = model.score_matrix(z_BRD, z_BRD, commutative=False)
        found["similarity_symmetric"] = model.score_matrix(z_BRD, z_BRD, commutative=True)
    assert found.keys() == {name for name in expected if not name.startswith("wave")}
    assert all(value.shape == expected[name].shape for name, value in found.items())
    embedded = model.embed(expected["wave2"].numpy(), 16_000)
    torch.testing.assert_close(embedded, to_complex(found["embedding2"]), rtol=0, atol=1e-6)
    return {stage: worst_error(stage, found, expected) for stage in BARS}


def compute_stages(model, wave):
    wave_BN = wave[None] / 32_768
    magnitude_BFT = model.front_end.transform(wave_BN)
    feature_BFT = model.features(wave_BN)
    z_BCFT = model.encoder(feature_BFT[:, None])
    pooled_BRD = model.pooling(z_BCFT)
    return {
        "cqt": magnitude_BFT[0, :, ::25],
        "db": feature_BFT[0, :, ::25],
        "backbone": z_BCFT[0, :, ::16],
        "pooled": pooled_BRD[0],
        "embedding": model.encode(feature_BFT)[0],
    }


def worst_error(stage, found, expected):
    names = [stage] if stage in expected else [f"{stage}{clip}" for clip in CLIPS]
    differences = {name: found[name] - expected[name] for name in names}
    if stage == "db":
        return max(value.abs().max().item() for value in differences.values())
    return max((value.norm() / expected[name].norm()).item() for name, value in differences.items())


@pytest.mark.parametrize("stage", BARS)
def test_stage_equals_the_authors(errors, stage):
    logger.info("%s: error %.1e, bar %.0e", stage, errors[stage], BARS[stage])
    assert errors[stage] <= BARS[stage]
