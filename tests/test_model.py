"""The assembled model: counts, borders, what an embedding may depend on, and files."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from phalar.model import VARIANTS, ModelConfig, build_model, load_model, save_model
from phalar.model.complex_layers import to_complex, to_parts
from phalar.model.waveform import at_model_rate

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
    for form in (
        mono.numpy()[::-1][::-1],
        mono.numpy().astype(">f4"),
        mono.numpy().astype(np.longdouble),
        np.frombuffer(mono.numpy().tobytes(), np.float32),
    ):
        assert torch.equal(model.embed(form, RATE_HZ), expected)
    whole = (mono * 32_768).round().clamp(-32_768, 32_767).short()
    assert torch.equal(model.embed(whole, RATE_HZ), model.embed(whole / 32_768, RATE_HZ))
    for form in (whole.numpy(), whole.numpy().astype(">i2")):
        assert torch.equal(model.embed(form, RATE_HZ), model.embed(whole, RATE_HZ))


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_099, 44_100, 48_000])
def test_a_tone_sounds_the_same_at_every_sample_rate(model, rate_hz):
    def tone(rate_hz):
        time_s = torch.arange(2 * rate_hz) / rate_hz
        return 0.5 * torch.sin(2 * torch.pi * 440 * time_s) * torch.hann_window(2 * rate_hz)

    feature = model.features(tone(RATE_HZ)[None])
    other = model.features(at_model_rate(tone(rate_hz)[None], rate_hz))
    assert other.shape == feature.shape
    loud = feature > 0.5  # from 40 dB under full scale
    assert loud.sum() > 200
    assert (other - feature)[loud].abs().max() < 0.01


@pytest.mark.parametrize(
    ("audio", "rate_hz", "options", "message"),
    [
        (torch.zeros(0), RATE_HZ, {}, r"shape \(0,\): 0 samples at 16000 Hz are under the 0.5 s"),
        (torch.zeros(7_999), RATE_HZ, {}, r"7999 samples at 16000 Hz are under the 0\.5 s"),
        (torch.zeros(9_000), 44_100, {}, r"9000 samples at 44100 Hz are under the 0\.5 s"),
        (torch.zeros(40_000, 2), RATE_HZ, {}, r"\(40000, 2\): 2 samples .*with channel_axis"),
        (torch.zeros(1, 2, 9_000), RATE_HZ, {}, r"must be \(samples,\) or \(clips, samples\)"),
        (torch.zeros(0, 9_000), RATE_HZ, {}, r"shape \(0, 9000\): must be .*at least one clip"),
        (torch.tensor(1.0), RATE_HZ, {}, r"shape \(\): must be \(samples,\)"),
        (torch.zeros(9_000), RATE_HZ, {"channel_axis": 1}, "channel_axis 1 is not one of its axes"),
        (torch.zeros(0, 9_000), RATE_HZ, {"channel_axis": 0}, "no channels along axis 0"),
        (torch.zeros(9_000, dtype=torch.int32), RATE_HZ, {}, "int32 is neither a float type nor"),
        (np.zeros(9_000, dtype=np.uint8), RATE_HZ, {}, r"\(9000,\): uint8 is neither a float type"),
        (np.array(["a"] * 9_000), RATE_HZ, {}, "<U1 is neither a float type nor int16"),
        (torch.zeros(9_000, dtype=torch.cfloat), RATE_HZ, {}, "complex64 is neither a float type"),
        (torch.full((9_000,), torch.nan), RATE_HZ, {}, r"9000 samples are not finite .*is nan"),
        (torch.full((9_000,), -torch.inf), RATE_HZ, {}, r"not finite \(the first is -inf\)"),
        (torch.zeros(9_000), 0, {}, "sample rate: 0 is not a whole number of Hz above 0"),
        (torch.zeros(9_000), 16_000.5, {}, r"sample rate: 16000\.5 is not a whole number"),
        (torch.zeros(9_000), RATE_HZ, {"batch_size": 0}, "batch_size: 0 is not"),
        (torch.zeros(9_000), RATE_HZ, {"pad": "left"}, "pad: 'left' is not a side"),
    ],
)
def test_bad_sound_is_refused_with_shape_value_and_rule(model, audio, rate_hz, options, message):
    with pytest.raises(ValueError, match=message):
        model.embed(audio, rate_hz, **options)


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_model_is_rebuilt_bit_for_bit(tmp_path, variant):
    model = fresh(variant)
    assert save_model(model, tmp_path / "a", extra={"step": 3}) == tmp_path / "a"
    wave_BN = music(0.5)
    for path in (tmp_path / "a", str(tmp_path / "a" / "model.safetensors")):
        loaded = load_model(path)
        assert not loaded.training
        assert loaded.config == model.config
        assert loaded.extra == {"step": 3}
        assert torch.equal(loaded.embed(wave_BN, RATE_HZ), model.embed(wave_BN, RATE_HZ))
    save_model(loaded, tmp_path / "b")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]


@pytest.fixture
def saved(tmp_path, model):
    return save_model(model, tmp_path / "model")


def edit_facts(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, edit):
    """Change the weights and make the checksum fit them again."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    edit_facts(folder, sha256=hashlib.sha256(content).hexdigest())


def test_saving_says_what_the_model_is(saved):
    facts = json.loads((saved / "model.json").read_text())
    assert facts["format"] == 1
    assert facts["model"] == {"variant": "full", "dropout": 0.1}
    assert facts["front_end"]["sample_rate_hz"] == RATE_HZ
    assert facts["parameters"] == PARAMETERS["full"]


def test_damaged_weights_are_refused(saved):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="one of them is damaged or another model's"):
        load_model(saved)
    path.write_bytes(content[:1000])
    with pytest.raises(ValueError, match=r"sha256 is .*, the \.json beside it says"):
        load_model(saved)
    edit_facts(saved, sha256=hashlib.sha256(content[:1000]).hexdigest())
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_model(saved)


def test_weights_that_do_not_fit_are_listed(saved):
    def edit(tensors):
        tensors["head.more"] = torch.zeros(1)
        tensors["head.norm.gain"] = torch.ones(511)
        tensors["head.activation.bias"] = tensors["head.activation.bias"].half()
        del tensors["head.hidden.weight"]

    edit_tensors(saved, edit)
    with pytest.raises(ValueError, match="4 entries do not fit the model") as caught:
        load_model(saved)
    for line in (
        "extra: head.more",
        "missing: head.hidden.weight",
        r"head.norm.gain: float32 (511,), must be float32 (512,)",
        r"head.activation.bias: float16 (512,), must be float32 (512,)",
    ):
        assert line in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2; this version of phalar reads format 1"),
        ({"model": {"variant": "huge"}}, r"cannot build the model .*'huge' is unknown"),
        ({"model": {"width": 3}}, r"cannot build the model .*'width'"),
        ({"model": "full"}, "model missing or damaged"),
        ({"extra": None, "sha256": 1}, "sha256, extra missing or damaged"),
        ({"front_end": {"kind": "mel"}}, "load it with the version that wrote it"),
        ({"model": {"variant": "gap"}}, "entries do not fit the model"),
    ],
)
def test_foreign_facts_are_refused(saved, changes, message):
    edit_facts(saved, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(saved)


def test_files_of_other_kinds_are_refused(saved, tmp_path):
    (saved / "model.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_model(saved)
    (saved / "model.json").write_text("[1]")
    with pytest.raises(ValueError, match="format None"):
        load_model(saved)
    (saved / "model.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.json: no such file; a model is a"):
        load_model(saved)
    with pytest.raises(FileNotFoundError, match=r"nowhere/model\.safetensors: no such file"):
        load_model(tmp_path / "nowhere")


def test_facts_that_json_cannot_hold_leave_nothing_behind(tmp_path, model):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_model(model, tmp_path, extra={"loss": float("nan")})
    assert not list(tmp_path.iterdir())
