"""The assembled model: counts, borders, and what an embedding may depend on."""

import numpy as np
import pytest
import torch

from phalar.model import VARIANTS, ModelConfig, build_model
from phalar.model.complex_layers import to_complex, to_parts

PARAMETERS = {
    "full": 2_293_104,
    "gap": 684_400,
    "magnitude": 1_442_160,
    "cosine": 2_293_105,
    "psd": 2_293_104,
    "hermitian": 2_293_104,
    "mel": 2_293_104,
    "cocola": 5_189_980,
}
RATE_HZ = 16_000


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def fresh(variant="full", seed=0):
    """Build a variant whose every branch counts, as after some training."""
    model = build_model(ModelConfig(variant), generator=seeded(seed))
    generator = seeded(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("scale"):
                parameter.normal_(std=0.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return fresh()


def music(seconds=1.0, clips=2, seed=0, rate_hz=RATE_HZ):
    """Make decaying chords at random moments, different in each clip: (clips, samples)."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    waves = np.zeros((clips, len(time_s)))
    for wave in waves:
        for _ in range(12):
            pitch_hz, start_s = 55 * 2 ** (rng.integers(48) / 12), rng.uniform(0, seconds)
            decay = np.exp(-4 * (time_s - start_s)) * (time_s >= start_s)
            wave += 0.1 * decay * np.sin(2 * np.pi * pitch_hz * time_s)
    return torch.from_numpy(waves).float()


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_as_many_as_in_the_paper(variant):
    model = build_model(ModelConfig(variant), generator=seeded(0))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[variant]


def test_parameters_by_part(model):
    parts = [model.encoder, model.pooling, model.head, model.similarity, model.front_end]
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    assert counts == [127_344, 460_800, 1_180_672, 524_288, 0]


@pytest.mark.parametrize("variant", ["full", "gap", "cosine", "cocola"])
def test_initial_weights_come_from_the_generator_alone(variant):
    config = ModelConfig(variant)
    torch.manual_seed(1)
    first = build_model(config, generator=seeded(5)).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = build_model(config, generator=seeded(5)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    other = build_model(config, generator=seeded(6)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    matrices = [name for name in first if "encoder" in name and first[name].ndim > 1]
    assert not any(torch.equal(first[name], other[name]) for name in matrices)


def test_an_unknown_variant_or_dropout_is_refused():
    with pytest.raises(
        ValueError, match=r"model\.variant: 'ful' is unknown; choose one of full, gap"
    ):
        ModelConfig("ful")
    with pytest.raises(ValueError, match=r"model\.dropout: 1 is not a probability below 1"):
        ModelConfig(dropout=1)


def test_dropout_is_the_configurations():
    wave_BN = music()
    still = build_model(ModelConfig(dropout=0.0), generator=seeded(0)).train()
    assert torch.equal(still(wave_BN), still(wave_BN))
    lively = build_model(ModelConfig(dropout=0.3), generator=seeded(0)).train()
    rates = {m.p for m in lively.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd)}
    assert rates == {0.3}
    assert not torch.equal(lively(wave_BN), lively(wave_BN))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_alone_equals_the_clip_in_any_batch(variant):
    model = fresh(variant)
    wave_BN = torch.cat((0.003 * music(seed=1), music(seed=2), torch.zeros(1, RATE_HZ)))
    batch_BD = model.embed(wave_BN, RATE_HZ)
    assert batch_BD.shape == (5, 512)
    assert batch_BD.dtype == torch.complex64
    assert torch.view_as_real(batch_BD).isfinite().all()
    for wave_N, z_D in zip(wave_BN, batch_BD, strict=True):
        alone_D = model.embed(wave_N, RATE_HZ)
        assert alone_D.shape == (512,)
        assert relative(alone_D, z_D) < 1e-5
    real = variant in ("gap", "magnitude", "cocola")
    assert real == (not batch_BD.imag.any())


def test_batch_size_changes_nothing_else(model):
    wave_BN = music(clips=5)
    expected = model.embed(wave_BN, RATE_HZ)
    for batch_size in (1, 2, 5, 64):
        assert relative(model.embed(wave_BN, RATE_HZ, batch_size=batch_size), expected) < 1e-5


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.37, 7.0, 12.0])
def test_any_length_from_half_a_second_has_a_finite_embedding(model, seconds):
    z_D = model.embed(music(seconds, clips=1)[0], RATE_HZ)
    assert z_D.shape == (512,)
    assert 0.1 < z_D.abs().mean() < 10


def test_a_batch_at_another_sample_rate_is_resampled(model):
    wave_BN = music(clips=3, rate_hz=22_050)
    z_BD = model.embed(wave_BN, 22_050, batch_size=2)
    assert relative(model.embed(wave_BN[2], 22_050), z_BD[2]) < 1e-5
    assert relative(z_BD, model.embed(music(clips=3), RATE_HZ)) < 0.2
    assert relative(z_BD, model.embed(wave_BN, RATE_HZ)) > 0.2


def test_sound_of_every_form_gives_the_same_embedding(model):
    mono = music(clips=1)[0]
    expected = model.embed(mono, RATE_HZ)
    stereo = torch.stack((1.5 * mono, 0.5 * mono))
    for form, channel_axis in (
        (mono.numpy(), None),
        (mono.double(), None),
        (stereo, 0),
        (stereo.T.numpy(), -1),
        (stereo.T, 1),
    ):
        assert relative(model.embed(form, RATE_HZ, channel_axis=channel_axis), expected) < 1e-5
    batch = model.embed(torch.stack((stereo, stereo)), RATE_HZ, channel_axis=1)
    assert batch.shape == (2, 512)
    assert relative(batch[1], expected) < 1e-5
    whole = (mono * 32_768).round().clamp(-32_768, 32_767).short()
    assert torch.equal(model.embed(whole, RATE_HZ), model.embed(whole / 32_768, RATE_HZ))


@pytest.mark.parametrize(
    ("audio", "options", "message"),
    [
        (torch.zeros(7_999), {}, r"\(7999,\): 7999 samples at 16000 Hz are under the 0\.5 s"),
        (torch.zeros(9_000, 2), {}, r"\(9000, 2\): 2 samples .*with channel_axis"),
        (torch.full((9_000,), torch.nan), {}, r"9000 samples are not finite .*is nan"),
        (torch.zeros(9_000), {"batch_size": 0}, "batch_size: 0 is not 1 or more"),
        (torch.zeros(9_000), {"pad": "left"}, "pad: 'left' is not a side"),
    ],
)
def test_bad_sound_and_options_are_refused(model, audio, options, message):
    with pytest.raises(ValueError, match=message):
        model.embed(audio, RATE_HZ, **options)


def test_embedding_restores_every_modules_mode_and_can_be_learned_from(model):
    model = fresh("gap").train()
    model.head.norm.eval()  # a frozen part
    mean = model.head.norm.running_mean.clone()
    z_BD = model.embed(music(), RATE_HZ)
    assert model.training
    assert model.encoder.training
    assert not model.head.norm.training
    with pytest.raises(ValueError, match="not finite"):
        model.embed(torch.full((RATE_HZ,), torch.nan), RATE_HZ)
    assert model.training
    assert torch.equal(model.head.norm.running_mean, mean)
    probe = torch.nn.Linear(512, 3, dtype=torch.complex64)
    probe(z_BD).abs().sum().backward()
    assert probe.weight.grad.abs().sum() > 0


def test_padding_on_the_right_is_another_embedding(model):
    wave_N = music(2.0)[0]
    assert relative(model.embed(wave_N, RATE_HZ, pad="right"), model.embed(wave_N, RATE_HZ)) > 0.1


def test_a_common_rotation_turns_the_embedding_and_leaves_the_score(model):
    pooled_BRD = model.pooling(model.encoder(model.features(music(clips=4))[:, None]))
    turn = torch.exp(torch.tensor(1.1j))
    turned_BRD = to_parts(turn * to_complex(pooled_BRD))
    with torch.no_grad():
        z_BRD, turned_z_BRD = model.head(pooled_BRD), model.head(turned_BRD)
        torch.testing.assert_close(to_complex(turned_z_BRD), turn * to_complex(z_BRD))
        score, turned_score = (
            model.score_matrix(z, z, commutative=False) for z in (z_BRD, turned_z_BRD)
        )
    torch.testing.assert_close(turned_score, score, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_of_embeddings_are_commutative_and_agree_with_the_matrix(variant):
    model = fresh(variant)
    z_BD = model.embed(music(clips=3), RATE_HZ)
    parts_BRD = to_parts(z_BD)[:, : 1 if variant in ("gap", "magnitude", "cocola") else 2]
    matrix = model.score_matrix(parts_BRD, parts_BRD, commutative=True).detach()
    first, second = z_BD, z_BD.roll(1, 0)
    pairs = model.score(first, second)
    assert pairs.shape == (3,)
    torch.testing.assert_close(pairs, matrix[[0, 1, 2], [2, 0, 1]], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pairs, model.score(second, first), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.score(z_BD[0], z_BD), matrix[0], rtol=1e-4, atol=1e-6)
    assert model.score(z_BD[0], z_BD[1]).shape == ()
    if variant == "psd":
        assert (matrix.diagonal() >= 0).all()


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "cosine"])
def test_search_vectors_give_the_score_as_an_inner_product(variant):
    model = fresh(variant)
    z_BD = model.embed(music(clips=3), RATE_HZ)
    vectors = model.search_vectors(z_BD)
    assert vectors.shape == (3, 1024)
    assert vectors.dtype == torch.float32
    if variant != "cocola":
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    products = vectors @ model.similarity.query_map() @ vectors.T
    scores = model.score(z_BD[:, None], z_BD[None])
    torch.testing.assert_close(products, scores, rtol=1e-4, atol=1e-6)


def test_what_is_no_embedding_is_refused(model):
    for wrong in (torch.zeros(512), torch.zeros(3, 256, dtype=torch.cfloat)):
        with pytest.raises(ValueError, match="must be complex with 512 entries in the last axis"):
            model.score(wrong, wrong)


def test_under_autocast_only_the_backbone_is_bfloat16(model):
    wave_BN = music(2.0)
    with torch.no_grad():
        feature_BFT, z_BRD = model.features(wave_BN), model(wave_BN)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.features(wave_BN), feature_BFT)
            rough_BRD = model(wave_BN)
            score = model.score_matrix(rough_BRD, rough_BRD, commutative=False)
    assert rough_BRD.dtype == score.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa, and some 30 convolutions add up.
    assert 1e-5 < relative(rough_BRD, z_BRD) < 0.05


def test_every_parameter_learns(model):
    model = fresh().train()
    z_BRD = model(music(clips=4))
    score = model.score_matrix(z_BRD[:2], z_BRD[2:], commutative=False)
    torch.nn.functional.cross_entropy(score, torch.arange(2)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
