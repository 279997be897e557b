"""Which form of the backbone computes: its own CPU kernel, torch.compile, or plain modules."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from phalar.audio import SAMPLE_RATE_HZ
from phalar.model import Phalar, fused
from phalar.model.encoder import Encoder
from phalar.params import Train
from phalar.train.distributed import World
from phalar.train.dropout import SharedDropout

logger = logging.getLogger(__name__)


def compile_backbone(
    model: Phalar, dropout: SharedDropout, settings: Train, world: World, *, mixed: bool
) -> str:
    """Make the backbone fast as `train.compile` says, try it, and name what came of it.

    `auto` is torch.compile on a GPU. On a CPU the encoder brings a kernel of its own, which is
    faster, for float32. Where torch.compile fails, the training goes on with plain modules.
    """
    encoder = model.encoder
    has_kernel = isinstance(encoder, Encoder)
    wanted = settings.compile
    if wanted == "auto":
        wanted = world.device.type == "cuda"
        if not wanted:
            usable = has_kernel and fused.usable(*model.encoder.parameters()) and not mixed
            return "compiled kernel" if usable else "modules"
    if has_kernel:
        encoder.compiled = False
    if not wanted:
        return "modules"
    encoder.compile()
    try:
        _try(model, dropout, settings, world, mixed=mixed)
    except Exception as error:  # noqa: BLE001 - compilers fail in many ways, none of which matters
        first = next(iter(str(error).splitlines()), type(error).__name__)
        logger.warning("torch.compile failed (%s); the backbone runs as plain modules", first)
        encoder._compiled_call_impl = None
        return "modules"
    return "torch.compile"


def _try(
    model: Phalar, dropout: SharedDropout, settings: Train, world: World, *, mixed: bool
) -> None:
    """Run forward and backward with the shape of a batch, so that a failure comes now."""
    clips = settings.recompute_clips or 2 * settings.batch_pairs // world.size
    samples = round(settings.crop_s[0] * SAMPLE_RATE_HZ)
    silence = torch.zeros(clips, samples, device=world.device)
    dtype = next(model.parameters()).dtype
    with torch.autocast(world.device.type, torch.bfloat16, enabled=mixed):
        feature = model.features(silence).to(dtype)
        dropout.draw(clips, feature)
        dropout.hold(slice(clips))
        z: Tensor = model.encode(feature)
    torch.autograd.backward(z.sum())
    model.zero_grad()
