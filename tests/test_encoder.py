"""The encoder, as modules and as a compiled kernel, against arithmetic written out in float64."""

import itertools
import math
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from phalar.model import fused
from phalar.model.encoder import Block, Branch, Encoder

CHANNELS = (8, 12, 18, 27, 40, 60)


@pytest.fixture(params=["modules", "kernel"])
def encoder(request) -> Encoder:
    """Make an encoder in which every branch counts, run as modules or by the kernel."""
    if request.param == "kernel" and fused.kernel() is None:
        pytest.skip("no C++ compiler here")
    torch.manual_seed(0)
    made = Encoder(dropout=0.1)
    for name, weight in made.named_parameters():
        if name.endswith(("scale", "norm.weight", "norm.bias", "mix.bias")):
            torch.nn.init.normal_(weight, mean=float("norm.weight" in name), std=0.3)
    made.compiled = request.param == "kernel"
    return made


def music(clips: int, bins: int, frames: int) -> Tensor:
    """Make features that are smooth in places and constant in others, as sound is."""
    rng = torch.Generator().manual_seed(frames)
    steps_BCFT = torch.randn(clips, 1, bins, frames, generator=rng)
    return steps_BCFT.cumsum(-1).div(math.sqrt(frames)).clamp(-0.5, 1.5)


def dropout_factors(encoder: Encoder, clips: int, seed: int) -> list[Tensor]:
    """Draw what dropout does to the channels of each branch, in the order of the branches."""
    torch.manual_seed(seed)
    branches = [module for module in encoder.modules() if isinstance(module, Branch)]
    return [b.dropout(torch.ones(clips, len(b.scale), 1, 1)).double() for b in branches]


def obvious(weight: dict[str, Tensor], x: Tensor, factors: list[Tensor]) -> Tensor:
    """Compute the encoder one operation a line."""
    factor = iter(factors)
    x = F.conv2d(x, weight["lift.weight"])
    for i in range(10):
        for branch, padding in (("frequency", (1, 0)), ("time", (0, 1)), ("point", (0, 0))):
            start = f"blocks.{i}.{branch}."
            w = {name.removeprefix(start): weight[name] for name in weight if start in name}
            mean = x.mean((2, 3), keepdim=True)
            variance = x.var((2, 3), correction=0, keepdim=True)
            y = (x - mean) / torch.sqrt(variance + 1e-5)
            y = y * w["norm.weight"][:, None, None] + w["norm.bias"][:, None, None]
            y = F.conv2d(y, w["mix.weight"], w["mix.bias"], padding=padding)
            y = y * torch.sigmoid(y)
            y = F.conv2d(y, w["merge.weight"])
            x = x + y * w["scale"][:, None, None] * next(factor)
        if i % 2 == 0:
            x = F.conv2d(x, weight[f"blocks.{i}.shrink.weight"], stride=(1, 2), padding=(0, 1))
    return x


def relative_error(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).detach().norm() / true.detach().norm())


def test_parameters_and_shapes():
    encoder = Encoder(dropout=0.1)
    assert sum(weight.numel() for weight in encoder.parameters()) == 127_344
    assert encoder.channels_out == 60
    names = [name for name, _ in encoder.named_parameters() if "shrink" in name]
    assert names == [f"blocks.{i}.shrink.weight" for i in (0, 2, 4, 6, 8)]
    assert [w.shape[1] for w in map(encoder.get_parameter, names)] == list(CHANNELS[:-1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("bins", "frames"), [(96, 63), (7, 251), (33, 50)])
def test_output_and_gradients_equal_the_obvious_ones(encoder, training, bins, frames):
    encoder.train(training)
    feature = music(3, bins, frames)
    factors = dropout_factors(encoder, 3, seed=1)
    assert any(factor.eq(0).any() for factor in factors) == training
    weight = {n: w.detach().double().requires_grad_() for n, w in encoder.named_parameters()}
    true_in, found_in = feature.double().requires_grad_(), feature.clone().requires_grad_()

    true = obvious(weight, true_in, factors)
    torch.manual_seed(1)
    found = encoder(found_in)
    assert relative_error(found, true) < 3e-6

    direction = torch.randn(true.shape, generator=torch.Generator().manual_seed(2))
    (true * direction).sum().backward()
    (found * direction).sum().backward()
    assert relative_error(found_in.grad, true_in.grad) < 1e-5
    for name, found_weight in encoder.named_parameters():
        assert relative_error(found_weight.grad, weight[name].grad) < 1e-4, name


@pytest.mark.parametrize("extreme", ["silent", "one", "loud"])
def test_extreme_features(encoder, extreme):
    encoder.eval()
    feature = {
        "silent": torch.full((2, 1, 12, 40), -1.5),
        "one": torch.randn(2, 1, 1, 1),
        "loud": 1e6 * music(2, 12, 40),
    }[extreme]
    if extreme == "loud":  # and saturate every SiLU
        for module in encoder.modules():
            if isinstance(module, Branch):
                module.norm.weight.data *= 1000
    weight = {name: w.double() for name, w in encoder.named_parameters()}
    true = obvious(weight, feature.double(), dropout_factors(encoder, 2, seed=0))
    assert relative_error(encoder(feature), true) < 1e-4


@pytest.mark.parametrize("frames", [1, 2, 3, 15, 16, 17, 32, 33, 501, 1001])
def test_any_length(encoder, frames):
    steps = frames
    for _ in range(5):
        steps = (steps + 1) // 2
    feature = torch.randn(1, 1, 3, frames, requires_grad=True)
    encoded = encoder(feature)
    assert encoded.shape == (1, 60, 3, steps)
    encoded.sum().backward()
    assert feature.grad.isfinite().all()


def test_five_seconds_become_sixteen_steps():
    frames = [501]
    x = torch.zeros(1, 1, 1, 501)
    encoder = Encoder(dropout=0.1)
    x = encoder.lift(x)
    for block in encoder.blocks:
        x = block(x)
        frames.append(x.shape[-1])
    assert [frames[0], *frames[1::2]] == [501, 251, 126, 63, 32, 16]


@pytest.mark.parametrize("training", [True, False])
def test_output_is_the_same_where_no_gradient_is_wanted(encoder, training):
    encoder.train(training)
    feature = music(5, 24, 70)
    torch.manual_seed(1)
    true = encoder(feature)
    torch.manual_seed(1)
    with torch.no_grad():
        assert relative_error(encoder(feature), true.double()) < 1e-6


def test_clips_do_not_depend_on_their_batch(encoder):
    encoder.eval()
    feature, atol = music(5, 24, 70), 1e-5
    if not encoder.compiled:
        # How a library's convolution cuts up its sums, hence its float32 rounding, goes by the
        # batch and the threads; that clips do not mix shows exactly in float64.
        encoder, feature, atol = encoder.double(), feature.double(), 1e-12
    together = encoder(feature)
    for i in range(5):
        torch.testing.assert_close(together[i], encoder(feature[i : i + 1])[0], rtol=0, atol=atol)


def test_a_fresh_branch_adds_nothing():
    encoder = Encoder(dropout=0.1)
    feature = x = music(2, 10, 64)
    x = encoder.lift(x)
    for block in encoder.blocks:
        x = block.shrink(x)
    torch.testing.assert_close(encoder(feature), x)


def test_dropout_takes_whole_channels_of_single_clips():
    torch.manual_seed(3)
    branch = Branch(400, "point", dropout=0.1)
    torch.nn.init.ones_(branch.scale)
    x = torch.randn(5, 400, 2, 3)
    off = (branch(x) - x).abs().amax((2, 3)) == 0
    assert abs(off.float().mean() - 0.1) < 0.03
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(off, 2))


def test_dropout_probability_may_be_changed(encoder):
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 1.0
    feature = music(2, 5, 33)
    fresh = Encoder(dropout=0.1)
    fresh.load_state_dict(
        {n: w * (not n.endswith("scale")) for n, w in encoder.state_dict().items()}
    )
    torch.testing.assert_close(encoder(feature), fresh(feature))


def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(encoder):
    feature = music(4, 12, 100)
    runs = []
    for threads in (1, 2, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads if encoder.compiled else 1)
        encoder.zero_grad()
        torch.manual_seed(5)
        encoded = encoder(feature)
        encoded.square().sum().backward()
        torch.set_num_threads(before)
        runs.append([encoded.detach(), *(w.grad.clone() for w in encoder.parameters())])
    for first, *others in zip(*runs, strict=True):
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("axis", ["frequency", "time", "point"])
def test_gradients_against_finite_differences(axis):
    torch.manual_seed(0)
    branch = Branch(2, axis, dropout=0.1).double().eval()
    torch.nn.init.normal_(branch.scale)
    names, weights = zip(*branch.named_parameters(), strict=True)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(branch, dict(zip(names, weights, strict=True)), (x,))

    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *weights))
    assert torch.autograd.gradcheck(Block(2, 3, dropout=0.1).double().eval(), (x,))


def test_float64_runs_as_modules(encoder):
    feature = music(2, 6, 40)
    encoder.eval()
    single = encoder(feature)
    double = encoder.double()(feature.double())
    assert double.dtype == torch.float64
    assert relative_error(single, double) < 3e-6


def test_no_gradient_is_kept_where_none_is_wanted(encoder):
    feature = music(1, 6, 40)
    with torch.no_grad():
        assert not encoder(feature).requires_grad
    for weight in encoder.parameters():
        weight.requires_grad_(False)
    assert not encoder(feature).requires_grad
    feature.requires_grad_()
    encoder(feature).sum().backward()
    assert feature.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(96, 251), (2, 2, 96, 251), (2, 1, 96, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"Encoder: feature of shape .* must be \(B, 1, F"):
        Encoder(dropout=0.1)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [(None, "no C++ compiler"), ("#!/bin/sh\necho sick >&2\nexit 1", "sick")],
)
def test_without_a_compiler_the_modules_run(monkeypatch, caplog, tmp_path, compiler, reason):
    if compiler:
        (tmp_path / "c++").write_text(compiler)
        (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setitem(sys.modules, "ziglang", None)
    fused.kernel.cache_clear()
    try:
        for _ in range(2):
            assert Encoder(dropout=0.1)(music(1, 4, 33)).shape == (1, 60, 4, 2)
    finally:
        fused.kernel.cache_clear()
    assert len([r for r in caplog.messages if "as modules" in r and reason in r]) == 1


def test_a_compiler_from_pip_takes_the_place_of_the_systems(monkeypatch, tmp_path):
    package = tmp_path / "ziglang"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delitem(sys.modules, "ziglang", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert fused._compiler() == [sys.executable, "-m", "ziglang", "c++"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_equals_cpu(encoder):
    encoder.eval()
    feature = music(2, 96, 251)
    on_cpu = encoder(feature)
    with torch.backends.cudnn.flags(allow_tf32=False):
        on_cuda = encoder.cuda()(feature.cuda())
    assert relative_error(on_cuda.cpu(), on_cpu.double()) < 1e-5
    with torch.autocast("cuda", torch.bfloat16):
        assert relative_error(encoder(feature.cuda()).cpu(), on_cpu.double()) < 5e-2
