"""The encoder in C++ for the CPU: compiled on first use, several times as fast as modules."""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

logger = logging.getLogger(__name__)

SOURCES = [Path(__file__).with_name(name) for name in ("fused.cpp", "clip.hpp", "products.hpp")]
FLAGS = ["-std=c++20", "-O3", "-march=native", "-shared", "-fPIC", "-pthread"]


@functools.cache
def kernel() -> ctypes.CDLL | None:
    """Return the compiled kernel, or None, with the reason logged, where it cannot be had.

    Compiling takes about five seconds (with ziglang forty), once per machine: the result is kept in
    ``phalar`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``), under a name that
    depends on source, compiler and processor.
    """
    compiler = _compiler()
    if compiler is None:
        logger.warning(
            "encoder: no C++ compiler, so it runs as modules, slower; install g++, or without "
            "rights to do so: pip install 'phalar[compiler]'"
        )
        return None
    try:
        return _load(_compile(compiler))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        name = " ".join(compiler)
        logger.warning("encoder: runs as modules, slower, as %s failed: %s", name, reason)
        return None


def _compiler() -> list[str] | None:
    """Find a C++ compiler: $CXX, one of the system's, or the one that pip installs (ziglang)."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if found := next(filter(None, map(shutil.which, names)), None):
        return [found]
    try:
        import ziglang  # noqa: F401 - the extra `compiler`
    except ImportError:
        return None
    return [sys.executable, "-m", "ziglang", "c++"]


def _compile(compiler: list[str]) -> Path:
    """Return the path of the shared library; if it is not there yet, write it aside and rename."""
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True)
    macros = run([*compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull]).stdout
    identity = "".join([*FLAGS, macros, *(source.read_text() for source in SOURCES)])
    name = f"encoder-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "phalar")
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            run([*compiler, *FLAGS, str(SOURCES[0]), "-o", f"{aside}/{name}"])
            Path(aside, name).replace(folder / name)
        logger.info("encoder: compiled to %s", folder / name)
    return folder / name


def _load(path: Path) -> ctypes.CDLL:
    """Load the library and declare its functions."""
    library = ctypes.CDLL(str(path))
    library.floats_to_save.restype = ctypes.c_long
    library.floats_to_save.argtypes = [ctypes.c_long] * 4
    library.encoder_forward.restype = library.encoder_backward.restype = None
    library.encoder_forward.argtypes = [ctypes.c_long] * 6 + [ctypes.c_void_p] * 5
    library.encoder_backward.argtypes = [ctypes.c_long] * 6 + [ctypes.c_void_p] * 7
    return library


def usable(*tensors: Tensor) -> bool:
    """Whether the kernel can take the place of the modules: float32, on the CPU, run eagerly."""
    return (
        all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and kernel() is not None
    )


class Encode(torch.autograd.Function):
    """What `Encoder` computes from a feature, dropout factors and parameters.

    Clips run in parallel on `torch.get_num_threads()` threads. Each clip's gradient of the
    parameters stands alone until the sum, so that the result does not depend on their number.
    """

    @staticmethod
    def forward(
        ctx: Any, feature_BCFT: Tensor, keep_BC: Tensor, weights: Tensor, shape: tuple[int, ...]
    ) -> Tensor:
        """Encode, and keep the input of every branch where a gradient is wanted.

        Parameters
        ----------
        feature_BCFT : float tensor [shape=(B, 1, F, T)]
        keep_BC : float tensor [shape=(B, channels of all branches)]
            What dropout multiplies the channels with.
        weights : float tensor
            All parameters, flat, in the order of `Encoder.parameters()`.
        shape : int tuple
            First channels, depth, last channels, T'.
        """
        channels, depth, channels_out, frames_out = shape
        clips, _, bins, frames = feature_BCFT.shape
        ctx.sizes = (clips, channels, depth, bins, frames, torch.get_num_threads())
        inputs = [tensor.contiguous() for tensor in (feature_BCFT, weights, keep_BC)]
        out_BCFT = feature_BCFT.new_empty(clips, channels_out, bins, frames_out)
        saved = None
        if any(ctx.needs_input_grad):
            floats = _library().floats_to_save(channels, depth, bins, frames)
            saved = feature_BCFT.new_empty(clips, floats)
            ctx.save_for_backward(*inputs, saved)
        _library().encoder_forward(*ctx.sizes, *map(_address, (*inputs, out_BCFT, saved)))
        return out_BCFT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCFT: Tensor) -> tuple[Tensor | None, ...]:
        """Compute all else again, clip by clip, and return the gradients."""
        feature_BCFT, weights, keep_BC, saved = ctx.saved_tensors
        dfeature_BCFT = torch.empty_like(feature_BCFT)
        dweights_BW = weights.new_zeros(len(feature_BCFT), len(weights))
        tensors = (feature_BCFT, weights, keep_BC, saved, grad_BCFT.contiguous())
        results = (dfeature_BCFT, dweights_BW)
        _library().encoder_backward(*ctx.sizes, *map(_address, (*tensors, *results)))
        return dfeature_BCFT, None, dweights_BW.sum(0), None


def _library() -> ctypes.CDLL:
    """Return the kernel where `usable` has said that there is one."""
    library = kernel()
    if library is None:
        raise RuntimeError("fused.Encode: no kernel was compiled; ask `usable` before")
    return library


def _address(tensor: Tensor | None) -> int | None:
    """Return where a tensor's first number lies, or the null pointer."""
    return None if tensor is None else tensor.data_ptr()
