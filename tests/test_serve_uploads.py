"""Uploads: what their headers may say, and that a mix is decoded once for all its questions."""

import io

import numpy as np
import pytest
import soundfile
from test_serve import RATE_HZ, client, model, service, wav  # noqa: F401 - fixtures

from phalar import audio
from phalar.serve import uploads
from phalar.serve.uploads import Decoder, Upload


def written(sound: np.ndarray, rate_hz: int, **how: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate_hz, **how)
    return buffer.getvalue()


def silence(seconds: float, rate_hz: int, channels: int = 1) -> bytes:
    shape = (round(seconds * rate_hz), channels)
    return written(np.zeros(shape, np.int16), rate_hz, format="FLAC")


def sent(content: bytes, name: str = "a.wav") -> Upload:
    return Upload(name, io.BytesIO(content))


def open_ended(content: bytes) -> bytes:
    """A FLAC as one writes it who cannot seek back: its header does not say how long it is."""
    changed = bytearray(content)
    changed[21] &= 0xF0
    changed[22:26] = bytes(4)
    return bytes(changed)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (silence(0.6, 655_350, 8), "a.flac: its header says 655350 Hz, must be 8000 to 384000"),
        (silence(0.6, 4_000), "a.flac: its header says 4000 Hz"),
        (written(np.zeros((9_000, 40)), 16_000, format="WAV"),
         "a.flac: has 40 channels, at most 32 are mixed down"),
        (silence(2500, 8_000), "a.flac: 41.7 min; at most 40 min of all files are decoded"),
        (silence(300, 192_000, 8), "a.flac: 460.8 million samples of all channels"),
        (open_ended(silence(1, 16_000)), "a.flac: its header does not say how long it is"),
    ],
    ids=["ultrasonic", "telephone", "channels", "long", "many samples", "open"],
)  # fmt: skip
def test_what_a_header_says_is_checked_before_anything_is_decoded(
    client,  # noqa: F811
    content,
    why,
    monkeypatch,
) -> None:
    monkeypatch.setattr(audio, "blocks_mono", lambda *_, **__: pytest.fail("is decoded"))
    for path, field in (("waveform", "file"), ("search", "files")):
        answer = client.post(f"/api/{path}", files={field: ("a.flac", content)})
        assert answer.status_code == 422
        assert why in answer.json()["detail"]


def test_the_files_of_a_request_have_one_limit(client, monkeypatch) -> None:  # noqa: F811
    long = silence(29 * 60, 8_000)
    monkeypatch.setattr(audio, "blocks_mono", lambda *_, **__: pytest.fail("is decoded"))
    several = [("files", (f"{number}.flac", long)) for number in range(8)]
    detail = client.post("/api/search", files=several).json()["detail"]
    assert detail.startswith("0.flac, 1.flac, 2.flac and 5 more: 232.0 min; at most 40 min")
    pair = {"a": ("a.flac", long), "b": ("b.flac", long)}
    assert "a.flac, b.flac: 58.0 min" in client.post("/api/score", files=pair).json()["detail"]


@pytest.mark.parametrize(("rate_hz", "channels"), [(44_100, 2), (16_000, 1), (8_000, 3)])
def test_decoded_in_small_blocks_it_is_the_same_sound(monkeypatch, rate_hz, channels) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (2 * rate_hz, channels))
    content = written(noise, rate_hz, format="WAV", subtype="FLOAT")
    monkeypatch.setattr(uploads, "BLOCK_SAMPLES", 10_000)
    (found,) = Decoder().decode([sent(content)])
    np.testing.assert_allclose(found, audio.load_mono(content), atol=1e-6)


def test_a_file_is_decoded_once_for_all_that_is_asked_of_it(client, service) -> None:  # noqa: F811
    content, before = wav(seed=77), service.decoder.decoded
    client.post("/api/waveform", files={"file": ("mix.wav", content)})
    # What it is called does not matter, what it holds does.
    files = {"files": ("again.wav", content)}
    found = client.post("/api/search", files=files).json()
    form = {"id": found[0]["id"], "candidate_start_s": found[0]["start_s"]}
    assert client.post("/api/audition", files=files, data=form).status_code == 200
    assert client.post("/api/search", files=[("files", ("a.wav", content))] * 2).status_code == 200
    assert service.decoder.decoded == before + 1


def test_what_is_kept_is_bounded_in_bytes_and_the_last_used() -> None:
    decoder = Decoder(most_bytes=4 * RATE_HZ * 5)
    contents = [wav(2, seed=seed) for seed in range(3)]
    for content in (*contents[:2], contents[0], contents[2]):
        decoder.decode([sent(content)])
    assert (decoder.decoded, decoder.kept_bytes) == (3, 2 * 4 * 2 * RATE_HZ)
    # The second was not used for longest.
    decoder.decode([sent(contents[0]), sent(contents[2])])
    assert decoder.decoded == 3
    decoder.decode([sent(contents[1])])
    assert decoder.decoded == 4
    # What is larger than all that may be kept is decoded, and displaces nothing.
    decoder.decode([sent(wav(6))])
    assert (decoder.decoded, decoder.kept_bytes) == (5, 2 * 4 * 2 * RATE_HZ)
    with pytest.raises(ValueError, match="read-only"):
        decoder.decode([sent(contents[1])])[0][0] = 1


def test_a_file_that_cannot_be_decoded_is_not_kept() -> None:
    decoder = Decoder()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"b\.wav: cannot be decoded"):
            decoder.decode([sent(wav()), sent(b"<html>", "b.wav")])
    assert (decoder.decoded, decoder.kept_bytes) == (0, 0)
