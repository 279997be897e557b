"""Scores of pairs of embeddings: one kernel for single pairs, whole matrices and search.

Shape letters: A anchors, P positives, R real and imaginary part, D dimensions, E = R * D reals of
one embedding. Apart from the cosine, every score is x^T F y of normalised reals with a real matrix
F (E, E); its commutative form, the mean of both directions, is x^T M y with M = (F + F^T) / 2.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from phalar.model.complex_layers import EPSILON, ComplexLinear

SEARCH_DIMENSIONS = 1024


def unit(x_E: Tensor) -> Tensor:
    """Divide each row by its length; the epsilon inside the root keeps a zero vector finite."""
    return x_E * torch.rsqrt(x_E.square().sum(-1, keepdim=True) + EPSILON)


class Similarity(nn.Module):
    """A bilinear score: subclasses say what F is, and how to normalise if not to unit length."""

    def form(self) -> Tensor:
        """Give F (E, E) of the one-way score x^T F y."""
        raise NotImplementedError

    def normalise(self, z_RD: Tensor) -> Tensor:
        """Flatten embeddings (..., R, D) to (..., E) at unit length."""
        return unit(z_RD.flatten(-2))

    def start_at_identity(self, scale: float) -> None:
        """Let training start where a clip scores `scale` with itself, if F can be so; else not.

        A random F says nothing of the embeddings until it has been learned; this one asks at once
        which of them are alike.
        """

    def forward(self, anchor_ARD: Tensor, positive_PRD: Tensor, *, commutative: bool) -> Tensor:
        """Score every anchor with every positive: (..., A, R, D) and (..., P, R, D) to (..., A, P).

        With `commutative` false the score is one-way, as training sees it; with it true it is the
        mean of both directions. Computed in float32 at least, whatever autocast says.
        """
        with torch.autocast(anchor_ARD.device.type, enabled=False):
            precision = torch.promote_types(anchor_ARD.dtype, torch.float32)
            return self._score(anchor_ARD.to(precision), positive_PRD.to(precision), commutative)

    def pairs(self, anchor_BRD: Tensor, positive_BRD: Tensor, *, commutative: bool) -> Tensor:
        """Score (..., R, D) with (..., R, D) one by one, broadcast against each other: (...)."""
        scores: Tensor = self(
            anchor_BRD[..., None, :, :], positive_BRD[..., None, :, :], commutative=commutative
        )
        return scores[..., 0, 0]

    def query_map(self) -> Tensor:
        """Give the symmetric M (1024, 1024): the commutative score of x and y is x'^T M y'.

        x' and y' are `Phalar.search_vectors`, so a query M x' turns the search for the best score
        into one for the largest inner product. Rows and columns beyond E (real variants) are zero.
        """
        with torch.no_grad(), torch.autocast(next(self.parameters()).device.type, enabled=False):
            form_EE = self.form()
            beyond = SEARCH_DIMENSIONS - len(form_EE)
            return nn.functional.pad((form_EE + form_EE.T) / 2, (0, beyond, 0, beyond))

    def _score(self, anchor_ARD: Tensor, positive_PRD: Tensor, commutative: bool) -> Tensor:
        form_EE = self.form()
        if commutative:
            form_EE = (form_EE + form_EE.T) / 2
        return self.normalise(anchor_ARD) @ form_EE @ self.normalise(positive_PRD).mT


class ComplexBilinear(Similarity):
    """Score Re((W x)^H y), or one of its kin, with a complex matrix W.

    Parameters
    ----------
    dimensions : int
        D of the embeddings.
    kind : {"one-way", "psd", "hermitian"}
        Re(<W x, y>); Re(<W x, W y>), never negative for a clip with itself; Re(<W x, y> + <x, W
        y>) / 2, the commutative form in training too.
    """

    def __init__(
        self, dimensions: int, kind: Literal["one-way", "psd", "hermitian"] = "one-way"
    ) -> None:
        super().__init__()
        self.kind = kind
        self.projection = ComplexLinear(dimensions, dimensions)

    @torch.no_grad()
    def start_at_identity(self, scale: float) -> None:
        """Make F `scale` times the identity."""
        weight = self.projection.weight.zero_()
        weight[: weight.shape[1]].fill_diagonal_(math.sqrt(scale) if self.kind == "psd" else scale)

    def form(self) -> Tensor:
        """Give F of x = [Re; Im]: the real form of W is [[A, -B], [B, A]], and F its transpose."""
        real_DD, imag_DD = self.projection.weight.chunk(2)
        matrix_EE = torch.cat(
            (torch.cat((real_DD, -imag_DD), dim=1), torch.cat((imag_DD, real_DD), dim=1))
        )
        if self.kind == "psd":
            return matrix_EE.T @ matrix_EE
        if self.kind == "hermitian":
            return (matrix_EE + matrix_EE.T) / 2
        return matrix_EE.T


class RealBilinear(Similarity):
    """Score x^T W y with a real matrix that starts at the identity."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(dimensions))

    def form(self) -> Tensor:
        """Give W itself."""
        return self.weight


class TanhBilinear(RealBilinear):
    """Score tanh(LN(x))^T W tanh(LN(y)), the similarity of COCOLA; W starts at N(0, 0.05)."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.norm = nn.LayerNorm(dimensions)
        nn.init.normal_(self.weight, std=0.05)

    def normalise(self, z_RD: Tensor) -> Tensor:
        """Flatten (..., 1, D) to (..., D), normalised and squashed; lengths differ."""
        return torch.tanh(self.norm(z_RD.flatten(-2)))


class ComplexCosine(Similarity):
    """Score |<W x, W y>| / (||W x|| ||W y||) times a learned temperature; W starts at the identity.

    The temperature starts at 1 / 0.07, is held as its logarithm, and never exceeds 100.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.projection = ComplexLinear(dimensions, dimensions)
        with torch.no_grad():
            self.projection.weight.zero_()[:dimensions].fill_diagonal_(1)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def form(self) -> Tensor:
        """Refuse: there is no such matrix."""
        raise ValueError(
            "variant cosine: its score |<x, y>| is not linear in x and y, so no matrix maps a "
            "query to an inner product; score the pairs, or search with another variant"
        )

    def normalise(self, z_RD: Tensor) -> Tensor:
        """Project, then flatten to unit length."""
        return super().normalise(self.projection(z_RD))

    def _score(self, anchor_ARD: Tensor, positive_PRD: Tensor, commutative: bool) -> Tensor:
        anchor_AE, positive_PE = self.normalise(anchor_ARD), self.normalise(positive_PRD)
        real_PD, imag_PD = positive_PE.chunk(2, dim=-1)
        turned_PE = torch.cat((imag_PD, -real_PD), dim=-1)
        products_AP2 = torch.stack((anchor_AE @ positive_PE.mT, anchor_AE @ turned_PE.mT), dim=-1)
        temperature = self.log_temperature.exp().clamp(max=100)
        # |<x, y>| = |<y, x>|: the score is commutative as it is.
        cosine_AP: Tensor = torch.linalg.vector_norm(products_AP2, dim=-1)
        return temperature * cosine_AP
