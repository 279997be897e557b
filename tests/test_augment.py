"""Noises whose spectra and levels are what their names and numbers say, on signals made here."""

from pathlib import Path

import numpy as np
import pytest
import torch

from phalar import params
from phalar.audio import SAMPLE_RATE_HZ
from phalar.train.augment import BAND_HZ, LOWEST_HZ, Chance, augment

CONFIG = params.load(Path(__file__).parents[1] / "params.yaml").train.augment
KINDS = ("white", "pink", "brown", "band", "bursts")
PAIRS, SAMPLES = 16, 32_000


def config(kinds, *, snr_db=(15.0, 15.0), gain_db=(0.0, 0.0), probability=1.0) -> params.Augment:
    noises = {
        kind: {"probability": probability if kind in kinds else 0.0, "snr_db": list(snr_db)}
        for kind in KINDS
    }
    return params.Augment.model_validate({"gain_db": list(gain_db), "noises": noises})


def chance(seed=1, rows=slice(0, PAIRS)) -> Chance:
    return Chance(torch.Generator().manual_seed(seed), PAIRS, rows)


def tone(pairs=PAIRS) -> torch.Tensor:
    """A tone in each clip, all of different levels."""
    time_s = torch.arange(SAMPLES) / SAMPLE_RATE_HZ
    levels = torch.logspace(-3, 0, 2 * pairs).reshape(pairs, 2, 1)
    return levels * torch.sin(2 * torch.pi * 440 * time_s)


def noise_of(kinds, **settings) -> torch.Tensor:
    """What is added to clips whose mean power is one half."""
    wave = np.sqrt(0.5) * torch.ones(PAIRS, 2, SAMPLES)
    return augment(wave, config(kinds, **settings), chance=chance()) - wave


def snr_db(wave: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(wave.square().mean(-1) / (noisy - wave).square().mean(-1))


@pytest.mark.parametrize(("kind", "slope_db"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_power_falls_by_so_much_an_octave(kind, slope_db):
    power = torch.fft.rfft(noise_of([kind])).abs().square().mean((0, 1)).numpy()
    hz = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE_HZ)
    octaves = [(hz >= low) & (hz < 2 * low) for low in 31.25 * 2.0 ** np.arange(8)]
    levels_db = [10 * np.log10(power[octave].mean()) for octave in octaves]
    assert np.polyfit(np.arange(8), levels_db, 1)[0] == pytest.approx(slope_db, abs=0.15)
    assert power[hz < LOWEST_HZ].max() < 1e-6 * power.max()


@pytest.mark.parametrize("kind", ["white", "pink", "brown", "band"])
def test_ratio_of_each_clip_is_what_was_drawn(kind):
    wave = tone()
    fixed = augment(wave, config([kind], snr_db=(13.0, 13.0)), chance=chance())
    torch.testing.assert_close(snr_db(wave, fixed), torch.full((PAIRS, 2), 13.0), atol=0.01, rtol=0)
    drawn = snr_db(wave, augment(wave, config([kind], snr_db=(12.0, 20.0)), chance=chance()))
    assert drawn.min() >= 11.99 and drawn.max() <= 20.01
    assert drawn.std() == pytest.approx(8 / 12**0.5, rel=0.3)


def test_powers_of_several_noises_add_up():
    wave = tone()
    noisy = augment(wave, config(["white", "pink", "brown", "band"]), chance=chance())
    expected = torch.full((PAIRS, 2), 15 - 10 * np.log10(4), dtype=torch.float32)
    torch.testing.assert_close(snr_db(wave, noisy), expected, atol=0.01, rtol=0)


def test_band_noise_stays_in_one_band_of_an_octave_or_more():
    power = torch.fft.rfft(noise_of(["band"])).abs().square()
    hz = torch.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE_HZ)
    bottoms = []
    for clip in power.flatten(0, 1):
        heard = hz[clip > 1e-7 * clip.max()]
        bottoms.append(heard.min().item())
        assert heard.min() >= BAND_HZ[0] and heard.max() < BAND_HZ[1]
        assert heard.max() / heard.min() > 1.9
    assert len({round(bottom) for bottom in bottoms}) > PAIRS


def test_bursts_are_few_short_and_of_the_right_level():
    noise = noise_of(["bursts"], snr_db=(6.0, 6.0)).flatten(0, 1)
    counts = []
    for clip in noise:
        places = clip.nonzero().flatten()
        ends = torch.cat([places[1:] - places[:-1] > 1, torch.tensor([True])])
        counts.append(int(ends.sum()))
        if counts[-1] == 1:
            assert 10 <= len(places) <= 30
            power = clip[places].square().mean()
            assert 10 * torch.log10(0.5 / power) == pytest.approx(6.0, abs=0.1)
    assert set(counts) == {1, 2, 3}


def test_gain_is_shared_by_a_pair_and_covers_its_range():
    wave = tone()
    gain_db = 20 * torch.log10(
        (augment(wave, config([], gain_db=(-6.0, 6.0)), chance=chance()) / wave)[..., 1]
    )
    torch.testing.assert_close(gain_db[:, 0], gain_db[:, 1])
    assert gain_db.abs().max() <= 6.001
    assert gain_db.max() > 3 and gain_db.min() < -3


def test_each_noise_comes_as_often_as_asked_and_on_each_side_by_itself():
    wave = tone()
    asked = config(["white"], probability=0.3)
    noisy = torch.cat(
        [augment(wave, asked, chance=chance(seed)) != wave for seed in range(20)]
    ).any(-1)
    assert noisy.float().mean() == pytest.approx(0.3, abs=0.06)
    assert (noisy[:, 0] & noisy[:, 1]).float().mean() == pytest.approx(0.09, abs=0.05)


def test_nothing_asked_changes_nothing_and_silence_stays_silent():
    wave = tone()
    assert torch.equal(augment(wave, config([]), chance=chance()), wave)
    assert not augment(torch.zeros_like(wave), CONFIG, chance=chance()).any()


def test_a_pair_gets_the_same_whoever_holds_it_and_another_seed_another():
    wave = tone()
    whole = augment(wave, CONFIG, chance=chance())
    half = slice(PAIRS // 2, PAIRS)
    torch.testing.assert_close(augment(wave[half], CONFIG, chance=chance(rows=half)), whole[half])
    assert torch.equal(augment(wave, CONFIG, chance=chance()), whole)
    assert not torch.equal(augment(wave, CONFIG, chance=chance(seed=2)), whole)
