"""One pass of the backbone for many starts: nearly the embeddings that each start would have."""

import numpy as np
import pytest
import torch

from phalar.model import ModelConfig, build_model
from phalar.search.along import PLACES, STEP_SAMPLES, embed_along, moved_queries
from phalar.search.moment import Moment, query_vectors, sum_moments, windows_of
from phalar.search.windows import Grid

RATE_HZ = 16_000
GRID = Grid(window_s=2.0, hop_s=1.0)
WINDOW = GRID.window_samples


@pytest.fixture(scope="module")
def model():
    """A model whose branches count, as in a trained one; new ones hand their input on."""
    generator = torch.Generator().manual_seed(1)
    made = build_model(ModelConfig(), generator=generator).eval()
    for name, weight in made.encoder.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.constant_(weight, 0.1)
    return made


def notes(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(4)
    sound = np.zeros(round(seconds * RATE_HZ), np.float32)
    for at in rng.uniform(0, seconds, round(8 * seconds)):
        time_s = np.arange(len(sound) - int(at * RATE_HZ)) / RATE_HZ
        tone = np.sin(2 * np.pi * rng.uniform(100, 2000) * time_s) * np.exp(-8 * time_s)
        sound[-len(time_s) :] += 0.1 * tone.astype(np.float32)
    return sound


def likeness(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine of each of a (S, D) with each of b (S, D)."""
    a, b = (z / z.abs().square().sum(-1, keepdim=True).sqrt() for z in (a, b))
    return (a @ b.conj().T).real


def test_a_window_alone_has_its_embedding(model) -> None:
    sound = torch.from_numpy(notes(6))[: 3 * WINDOW].reshape(3, WINDOW)
    along = embed_along(model, sound, WINDOW)
    assert along.shape == (3, 1, 512)
    torch.testing.assert_close(along[:, 0], model.embed(sound, RATE_HZ), rtol=1e-4, atol=1e-4)


def test_each_start_has_nearly_its_own_embedding_and_no_others(model) -> None:
    sound = torch.from_numpy(notes(2 + 6 * 0.32 + 0.3))
    (along,) = embed_along(model, sound[None], WINDOW)
    assert len(along) == 7
    own = model.embed(sound.unfold(0, WINDOW, STEP_SAMPLES), RATE_HZ)
    alike = likeness(along, own)
    others = alike[~torch.eye(7, dtype=torch.bool)]
    assert alike.diagonal().min() > 0.8
    assert others.max() < 0.5
    # In between, the backbone hears something else: that is why a sound is heard from several.
    between = model.embed(sound[STEP_SAMPLES // 2 :].unfold(0, WINDOW, STEP_SAMPLES), RATE_HZ)
    assert likeness(along[: len(between)], between).diagonal().max() < 0.5


def test_starts_do_not_depend_on_the_batch(model) -> None:
    sounds = torch.from_numpy(notes(18)).reshape(6, -1)
    together = embed_along(model, sounds, WINDOW)
    alone = torch.cat([embed_along(model, sound[None], WINDOW) for sound in sounds])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_a_backbone_without_such_steps_hears_every_start() -> None:
    other = build_model(ModelConfig("cocola"), generator=torch.Generator().manual_seed(1)).eval()
    sound = torch.from_numpy(notes(2.7))
    (along,) = embed_along(other, sound[None], WINDOW)
    own = other.embed(sound.unfold(0, WINDOW, STEP_SAMPLES), RATE_HZ)
    torch.testing.assert_close(along, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("start_s", "seconds", "length_s"), [(1.3, 2, 8), (0, 2, 2.1), (2, 4, 8)])
def test_a_mix_is_heard_at_every_place_that_there_is(model, start_s, seconds, length_s) -> None:
    mix = sum_moments([("mix", notes(length_s))], Moment(start_s, seconds), GRID)
    shifts, queries = moved_queries(model, mix, GRID, 3)
    fine = STEP_SAMPLES // PLACES
    low, high = mix.reach(3 * STEP_SAMPLES - fine)
    assert shifts == [shift for shift in range(low, high + 1) if shift % fine == 0]
    assert 0 in shifts
    for shift, query in zip(shifts, queries, strict=True):
        own = query_vectors(model, windows_of(mix.shifted(shift), GRID))
        assert query.shape == own.shape
        lengths = np.linalg.norm(query, axis=1) * np.linalg.norm(own, axis=1)
        assert ((query * own).sum(axis=1) / lengths).min() > 0.8


def test_a_mix_that_is_not_moved_is_exact(model) -> None:
    mix = sum_moments([("mix", notes(5))], Moment(1.0), GRID)
    shifts, (query,) = moved_queries(model, mix, GRID, 0)
    assert shifts == [0]
    np.testing.assert_array_equal(query, query_vectors(model, windows_of(mix.sound, GRID)))


def test_what_cannot_be_heard_along_is_refused(model) -> None:
    with pytest.raises(ValueError, match="sounds of 31999 samples: must be as long as a window"):
        embed_along(model, torch.zeros(1, WINDOW - 1), WINDOW)
    training = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=r"in training mode; call model\.eval\(\) first"):
        embed_along(training, torch.zeros(1, WINDOW), WINDOW)
