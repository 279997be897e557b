"""Embeddings a second, ours against the same weights with nnAudio's transform and plain modules.

    python benchmarks/embedding.py                 # CPU: one thread, float32, CPU time, medians
    python benchmarks/embedding.py --device cuda   # GPU: bfloat16, wall time, share of the floor

On the CPU both sides take turns within one process, so that a busy machine slows both. On a GPU
the floor is the time that the memory needs to move each branch's input and output once.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from nnAudio.features import CQT1992v2
from torch import Tensor, nn
from torchaudio.functional import amplitude_to_DB

from phalar.model import ModelConfig, Phalar, build_model
from phalar.model.complex_layers import to_complex

CLIP_SAMPLES = 80_000
CHANNELS = (8, 12, 18, 27, 40, 60)


def plain_branch(channels: int, kernel: tuple[int, int], middle: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "norm": nn.GroupNorm(channels, channels),
            "mix": nn.Conv2d(channels, middle, kernel, padding="same"),
            "merge": nn.Conv2d(middle, channels, 1, bias=False),
        }
    )


class PlainBlock(nn.Module):
    """A block as the paper's text says it, one library module a step."""

    def __init__(self, channels: int, channels_out: int | None) -> None:
        super().__init__()
        self.frequency = plain_branch(channels, (3, 1), channels)
        self.time = plain_branch(channels, (1, 3), channels)
        self.point = plain_branch(channels, (1, 1), 2 * channels)
        for branch in (self.frequency, self.time, self.point):
            branch.register_parameter("scale", nn.Parameter(torch.zeros(channels)))
        self.shrink = None
        if channels_out is not None:
            self.shrink = nn.Conv2d(channels, channels_out, (1, 3), (1, 2), (0, 1), bias=False)

    def forward(self, x_BCFT: Tensor) -> Tensor:
        """Add each branch's change, then halve the frames where wanted."""
        for branch in (self.frequency, self.time, self.point):
            mixed = nn.functional.silu(branch["mix"](branch["norm"](x_BCFT)))
            x_BCFT = x_BCFT + branch.scale[:, None, None] * branch["merge"](mixed)
        return x_BCFT if self.shrink is None else self.shrink(x_BCFT)


class PlainEncoder(nn.Module):
    """The backbone with the names of ours, so that it takes the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, CHANNELS[0], 1, bias=False)
        self.blocks = nn.Sequential()
        for narrow, wide in pairwise(CHANNELS):
            self.blocks.extend([PlainBlock(narrow, wide), PlainBlock(wide, None)])

    def forward(self, feature_BCFT: Tensor) -> Tensor:
        """Turn (B, 1, F, T) into (B, 60, F, T / 32)."""
        return self.blocks(self.lift(feature_BCFT))


class PlainFrontEnd(nn.Module):
    """nnAudio's transform and torchaudio's decibels, clip by clip as their floor demands."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = CQT1992v2(
            sr=16_000, hop_length=160, fmin=16.35, n_bins=96, bins_per_octave=12, verbose=False
        )

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn (B, N) into (B, F, T)."""
        # Four axes: torchaudio takes the maximum over the last three, that is, of each clip.
        magnitude_BCFT = self.transform(wave_BN)[:, None]
        return (amplitude_to_DB(magnitude_BCFT, 20.0, 1e-10, 0.0, top_db=80.0)[:, 0] + 80) / 80


def make_models(device: str) -> tuple[Phalar, Phalar]:
    """Give our model and its plain twin."""
    ours = build_model(ModelConfig(), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # fresh scales are zero, and the branches would not count
        for name, parameter in ours.named_parameters():
            if name.endswith("scale"):
                parameter.fill_(0.5)
    plain = build_model(ModelConfig(), generator=torch.Generator().manual_seed(0))
    plain.load_state_dict(ours.state_dict())
    plain.front_end, plain.encoder = PlainFrontEnd(), PlainEncoder()
    plain.encoder.load_state_dict(ours.encoder.state_dict())
    return ours.eval().to(device), plain.eval().to(device)


def make_music(clips: int) -> Tensor:
    """Make chords with harmonics, and clicks: (clips, samples)."""
    generator = torch.Generator().manual_seed(0)
    time_s = torch.arange(CLIP_SAMPLES) / 16_000
    wave_BN = torch.zeros(clips, CLIP_SAMPLES)
    for wave_N in wave_BN:
        for onset_s in torch.arange(0, 5, 0.5):
            pitch_hz = 55 * 2 ** (torch.randint(36, (), generator=generator) / 12)
            decay_N = torch.exp(-6 * (time_s - onset_s)) * (time_s >= onset_s)
            for harmonic in range(1, 6):
                phase_N = 2 * torch.pi * harmonic * pitch_hz * time_s
                wave_N += 0.1 / harmonic * decay_N * torch.sin(phase_N)
            wave_N += 0.05 * decay_N**20 * torch.randn(CLIP_SAMPLES, generator=generator)
    return wave_BN


def alternate(functions: list[Callable[[], Tensor]], repeats: int) -> list[float]:
    """Give each function's median CPU seconds, the functions taking turns."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, times in zip(functions, seconds, strict=True):
            start = time.process_time()
            function()
            times.append(time.process_time() - start)
    return [statistics.median(times) for times in seconds]


def compare_on_cpu(clip_counts: list[int], repeats: int) -> None:
    torch.set_num_threads(1)
    ours, plain = make_models("cpu")
    print("| clips of 5 s | by | ms | ratio | embeddings differ by |")
    print("| --- | --- | --- | --- | --- |")
    for clips in clip_counts:
        wave_BN = make_music(clips)

        def embed_in_torch(wave_BN: Tensor = wave_BN) -> Tensor:
            ours.encoder.compiled = False
            z_BD = ours.embed(wave_BN, 16_000)
            ours.encoder.compiled = True
            return z_BD

        ways = {
            "nnAudio and plain modules": lambda w=wave_BN: to_complex(plain(w)),
            "ours, plain torch": embed_in_torch,
            "ours, compiled kernel": lambda w=wave_BN: ours.embed(w, 16_000),
        }
        expected, *_ = found = [way() for way in ways.values()]  # and warm up
        seconds = alternate(list(ways.values()), repeats)
        for name, z_BD, way_s in zip(ways, found, seconds, strict=True):
            error = ((z_BD - expected).norm() / expected.norm()).item()
            ratio = seconds[0] / way_s
            print(f"| {clips} | {name} | {way_s * 1e3:.0f} | {ratio:.1f}x | {error:.1e} |")


def floor_bytes(clips: int) -> float:
    """Give what a backbone of one pass a branch must move in bfloat16."""
    frames, elements = 501, 501 * (1 + CHANNELS[0])
    for narrow, wide in pairwise(CHANNELS):
        half = (frames + 1) // 2
        elements += 6 * narrow * frames + narrow * frames + wide * half + 6 * wide * half
        frames = half
    return 2 * 96 * elements * clips


def measure_on_gpu(clips: int, repeats: int) -> None:
    ours, _ = make_models("cuda")
    wave_BN = make_music(8).repeat(clips // 8, 1).cuda()
    encode = torch.compile(ours.encode)
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def embed() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return encode(ours.features(wave_BN))

    def seconds(function: Callable[[], object]) -> float:
        for _ in range(3):
            function()
        times = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    bytes_a_second = 2 * source.numel() / seconds(lambda: target.copy_(source))
    elapsed_s, features_s = seconds(embed), seconds(lambda: ours.features(wave_BN))
    share = floor_bytes(clips) / bytes_a_second / elapsed_s
    print(f"{torch.cuda.get_device_name()}, copies at {bytes_a_second / 1e12:.2f} TB/s")
    print("| clips of 5 s | embeddings/s | ms | of it front end | of the memory floor |")
    print("| --- | --- | --- | --- | --- |")
    row = f"{clips / elapsed_s:.0f} | {elapsed_s * 1e3:.1f} | {features_s * 1e3:.1f} | {share:.0%}"
    print(f"| {clips} | {row} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--clips", type=int, nargs="+", help="batch sizes (CPU: 1 8; GPU: 256)")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with torch.inference_mode():
        if options.device == "cpu":
            compare_on_cpu(options.clips or [1, 8], options.repeats)
        else:
            for clips in options.clips or [256]:
                measure_on_gpu(clips, options.repeats)


if __name__ == "__main__":
    main()
