"""Dropout drawn for a whole global batch, so that who encodes which clips changes nothing."""

from __future__ import annotations

from torch import Tensor, nn

from phalar.model import Phalar
from phalar.model.encoder import Branch, Encoder
from phalar.model.phalar import REAL_VARIANTS


class SharedDropout:
    """Takes the place of a model's dropout layers, and draws for all of them at once.

    The layers draw in the order in which they run, for all clips of a global batch. So a process
    that encodes the batch in one piece drops exactly what it would without this, and several
    processes, or one that encodes piece by piece, drop the same.

    Parameters
    ----------
    model : Phalar
        Its dropout layers, which hold no weights, are replaced. COCOLA keeps its own: its backbone
        draws in other places, too.
    """

    def __init__(self, model: Phalar) -> None:
        self.layers: list[_Drawn] = []
        if not isinstance(model.encoder, Encoder):
            return
        for name, module in list(model.named_modules()):
            if isinstance(module, Branch):
                self._replace(model, f"{name}.dropout", (len(module.scale), 1, 1))
        features = (model.pooling.features_out,)
        is_real = model.config.variant in REAL_VARIANTS
        self._replace(model, "head.dropout", features if is_real else (1, *features))

    def _replace(self, model: Phalar, name: str, shape: tuple[int, ...]) -> None:
        self.layers.append(_Drawn(model.get_submodule(name), shape))
        model.set_submodule(name, self.layers[-1])

    def draw(self, clips: int, like: Tensor) -> None:
        """Draw for the clips of a global batch, on the device and in the precision of `like`.

        The source of chance is torch's global generator, as for the layers themselves.
        """
        for layer in self.layers:
            layer.of_all = layer.own(like.new_ones(clips, *layer.shape))

    def hold(self, clips: slice) -> None:
        """Say which clips of the global batch come next."""
        for layer in self.layers:
            layer.factors = layer.of_all[clips]


class _Drawn(nn.Module):
    """Multiplies with factors that were drawn before; does nothing outside training."""

    of_all: Tensor
    factors: Tensor

    def __init__(self, own: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.own = own
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors.to(x.dtype) if self.training else x
