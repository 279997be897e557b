"""Using a model: one answer for files and arrays of any rate and channels, and clear refusals."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import phalar
from phalar import infer
from phalar.model import ModelConfig, Phalar, build_model, save_model

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def model() -> Phalar:
    return build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()


def music(seconds: float, rate_hz: int, *, seed: int = 1) -> np.ndarray:
    """Tones with harmonics below 3 kHz, that fade in and out: the same sound at any rate."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    tones = [
        np.sin(2 * np.pi * hz * time_s + phase)
        for hz, phase in zip(rng.uniform(80, 3000, 8), rng.uniform(0, 6, 8), strict=True)
    ]
    fade = np.minimum(1, 20 * np.minimum(time_s, seconds - time_s))
    return (0.1 * fade * np.mean(tones, axis=0)).astype(np.float32)


def closeness(a: torch.Tensor, b: torch.Tensor) -> float:
    """1 where two embeddings are the same but for their length."""
    return float((torch.vdot(a, b) / (a.norm() * b.norm())).real)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import phalar, sys; assert phalar.__all__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sing'"):
        _ = phalar.sing


def test_file_and_array_embed_alike(model, tmp_path) -> None:
    sound = music(3, RATE_HZ)
    soundfile.write(tmp_path / "a.wav", sound, RATE_HZ, subtype="FLOAT")
    from_file = phalar.embed(model, tmp_path / "a.wav")
    assert from_file.shape == (512,)
    assert from_file.dtype == torch.complex64
    torch.testing.assert_close(from_file, phalar.embed(model, sound, sample_rate=RATE_HZ))
    torch.testing.assert_close(from_file, model.embed(sound, RATE_HZ))
    torch.testing.assert_close(from_file, phalar.embed(model, str(tmp_path / "a.wav")))


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_rate_and_channels_hardly_matter(model, rate_hz: int) -> None:
    here = phalar.embed(model, music(3, RATE_HZ), sample_rate=RATE_HZ)
    sound = music(3, rate_hz)
    stereo = np.stack([1.5 * sound, 0.5 * sound])
    there = phalar.embed(model, stereo, sample_rate=rate_hz)
    other = phalar.embed(model, music(3, RATE_HZ, seed=2), sample_rate=RATE_HZ)
    assert closeness(here, there) > 0.98
    assert closeness(here, there) > closeness(here, other)


def test_integers_are_sound_of_sixteen_bits(model) -> None:
    sound = np.round(music(1, RATE_HZ) * 32768)
    expected = phalar.embed(model, sound / 32768, sample_rate=RATE_HZ)
    found = phalar.embed(model, sound.astype(np.int16), sample_rate=RATE_HZ)
    torch.testing.assert_close(found, expected)


def test_score_does_not_depend_on_the_order(model) -> None:
    a, b = music(3, RATE_HZ), music(3, RATE_HZ, seed=2)
    ab, ba = (phalar.score(model, *pair, sample_rate=RATE_HZ) for pair in ((a, b), (b, a)))
    assert ab == pytest.approx(ba, abs=1e-6)
    z_a, z_b = (model.embed(sound, RATE_HZ) for sound in (a, b))
    assert ab == pytest.approx(float(model.score(z_a, z_b)), abs=1e-5)


def test_score_hears_both_for_the_time_of_the_shorter(model) -> None:
    a, b = music(3, RATE_HZ), music(2, RATE_HZ, seed=2)
    expected = phalar.score(model, a[: 2 * RATE_HZ], b, sample_rate=RATE_HZ)
    assert phalar.score(model, a, b, sample_rate=RATE_HZ) == pytest.approx(expected, abs=1e-6)


def test_moment_is_cut_and_what_is_not_heard_is_said(model, caplog) -> None:
    sound = music(12, RATE_HZ)
    first = phalar.embed(model, sound, sample_rate=RATE_HZ)
    assert "12.0 s long, only its first 10 s are heard" in caplog.text
    torch.testing.assert_close(first, model.embed(sound[: 10 * RATE_HZ], RATE_HZ))
    caplog.clear()
    moment = phalar.embed(model, sound, sample_rate=RATE_HZ, start_s=4.0, seconds=2.0)
    torch.testing.assert_close(moment, model.embed(sound[4 * RATE_HZ : 6 * RATE_HZ], RATE_HZ))
    assert not caplog.text


def test_long_sound_is_embedded_in_windows(model, tmp_path) -> None:
    sound = music(13, RATE_HZ)
    soundfile.write(tmp_path / "long.wav", np.stack([sound, sound], 1), RATE_HZ, subtype="FLOAT")
    starts_s, z = phalar.embed_windows(model, tmp_path / "long.wav")
    assert starts_s.tolist() == [0, 2.5, 5, 7.5]
    for start_s, row in zip(starts_s, z, strict=True):
        expected = phalar.embed(model, sound, sample_rate=RATE_HZ, start_s=start_s, seconds=5)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)
    starts_s, z = phalar.embed_windows(model, sound[:RATE_HZ], sample_rate=RATE_HZ)
    assert (starts_s.tolist(), z.shape) == ([0], (1, 512))
    torch.testing.assert_close(z[0], model.embed(sound[:RATE_HZ], RATE_HZ))
    with pytest.raises(ValueError, match=r"windows of 5 s every 0 s: must be longer than 0"):
        phalar.embed_windows(model, sound, sample_rate=RATE_HZ, hop_s=0)


def test_long_sounds_score_by_their_windows(model) -> None:
    a, b = music(12, RATE_HZ), music(14, RATE_HZ, seed=2)
    # Where one is silent there is nothing to score.
    a[: 5 * RATE_HZ] = 0
    expected = [
        phalar.score(model, a, b, sample_rate=RATE_HZ, start_s=start_s, seconds=5)
        for start_s in (2.5, 5.0)
    ]
    found = phalar.score(model, a, b, sample_rate=RATE_HZ)
    assert found == pytest.approx(np.mean(expected), abs=1e-4)
    assert phalar.score(model, b, a, sample_rate=RATE_HZ) == pytest.approx(found, abs=1e-5)
    b[2 * RATE_HZ :] = 0
    with pytest.raises(ValueError, match="the two are never heard at the same time"):
        phalar.score(model, a, b, sample_rate=RATE_HZ)


@pytest.mark.parametrize(
    ("sound", "options", "why"),
    [
        (
            np.zeros(RATE_HZ),
            {},
            r"array \(16000,\): has no sample rate of its own; pass sample_rate",
        ),
        (
            np.zeros((RATE_HZ, 2)),
            {"sample_rate": RATE_HZ},
            r"more channels than samples; transpose",
        ),
        (
            np.zeros(0),
            {"sample_rate": RATE_HZ},
            r"must be \(N,\) or \(channels, N\), and not empty",
        ),
        (np.full(RATE_HZ, np.nan), {"sample_rate": RATE_HZ}, "must be of finite floats or int16"),
        (
            np.zeros(RATE_HZ, dtype=np.int64),
            {"sample_rate": RATE_HZ},
            "of int64: must be of finite",
        ),
        (
            np.zeros(RATE_HZ),
            {"sample_rate": RATE_HZ, "start_s": 2.0},
            "ends at 1.0 s, before the mo",
        ),
        (np.zeros(RATE_HZ), {"sample_rate": RATE_HZ, "start_s": -1.0}, "must start at 0 or later"),
        (
            np.zeros(RATE_HZ),
            {"sample_rate": 0},
            "sample_rate: 0 is not a whole number of Hz above 0",
        ),
        (
            np.zeros(RATE_HZ),
            {"sample_rate": np.nan},
            "sample_rate: nan is not a whole number of Hz above 0",
        ),
        (np.zeros(RATE_HZ), {"sample_rate": RATE_HZ, "start_s": np.inf}, "must start at 0 or"),
        (
            np.zeros(RATE_HZ),
            {"sample_rate": RATE_HZ, "start_s": 0.6},
            r"array \(16000,\): 0.40 s from 0.6 s on, must be 0.5 s or more",
        ),
        (np.zeros(100), {"sample_rate": RATE_HZ}, "0.01 s from 0 s on, must be 0.5 s or more"),
        ("nowhere.wav", {}, "nowhere.wav: no such file"),
    ],
)
def test_sound_that_cannot_be_heard_is_refused(model, sound, options, why) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=why):
        phalar.embed(model, sound, **options)


def test_damaged_file_is_refused_by_name(model, tmp_path) -> None:
    path = tmp_path / "page.wav"
    path.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"page\.wav: cannot be decoded"):
        phalar.embed(model, path)


@pytest.mark.parametrize("kind", ["wav", "aiff", "flac", "ogg"])
def test_a_cut_file_is_refused_by_name(model, tmp_path, kind) -> None:
    path = tmp_path / f"cut.{kind}"
    soundfile.write(path, music(6, RATE_HZ), RATE_HZ)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"cut\.{kind}: .*(it is cut|cannot be decoded)"):
        phalar.embed(model, path)


def test_a_length_that_a_header_makes_up_is_no_memory(model, tmp_path) -> None:
    path = tmp_path / "long.flac"
    soundfile.write(path, music(2, RATE_HZ), RATE_HZ)
    whole = bytearray(path.read_bytes())
    # STREAMINFO: 36 bits of total samples end at byte 26; here they promise 190 hours.
    whole[21] |= 0x0F
    whole[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"long\.flac: (ends after 32000 of|cannot be decoded)"):
        phalar.embed(model, path)


def test_model_loads_from_its_folder_or_file(model, tmp_path) -> None:
    save_model(model, tmp_path)
    for name in (tmp_path, str(tmp_path), tmp_path / "model.safetensors"):
        found = infer.load_model(name).state_dict()
        assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["some/folder", "data/train", "a b", "../x"])
def test_path_without_a_model_is_refused(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="no such model; give a folder with model"):
        infer.load_model(f"nowhere/{name}")


def test_champion_alone_is_the_model_that_users_get(model, tmp_path, monkeypatch) -> None:
    from phalar import registry

    asked = []
    save_model(model, tmp_path)
    monkeypatch.setattr(registry, "fetch", lambda name: asked.append(name) or tmp_path)
    phalar.load_model("champion")
    assert asked == ["phalar@champion"]
