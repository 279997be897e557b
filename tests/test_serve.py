"""The API: what it answers, whom it refuses, and many who ask at once."""

import io
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch

import phalar
from phalar import search
from phalar.model import ModelConfig, build_model
from phalar.search.windows import Grid

pytest.importorskip("multipart", reason="pip install 'phalar[serve]'")
from fastapi.testclient import TestClient

from phalar.serve.app import create_app
from phalar.serve.service import Service

RATE_HZ = 16_000
HOSTILE = 'a<img src=x onerror=alert(1)> "b".wav'


def wav(seconds: float = 2.0, seed: int = 1, rate_hz: int = RATE_HZ) -> bytes:
    rng = np.random.default_rng(seed)
    noise = np.convolve(rng.normal(0, 0.1, round(seconds * rate_hz)), np.hanning(16) / 8, "same")
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, rate_hz, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def flac() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, soundfile.read(io.BytesIO(wav()))[0], RATE_HZ, format="FLAC")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def model():
    return build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()


@pytest.fixture(scope="module")
def service(tmp_path_factory, model) -> Service:
    root = tmp_path_factory.mktemp("serve") / "stems"
    root.mkdir()
    for seed, name in enumerate(["bass.wav", "drums_90bpm.wav", "piano.wav", HOSTILE]):
        (root / name).write_bytes(wav(3, seed=10 + seed))
    (root.parent / "secret.wav").write_bytes(wav(1))
    search.update(
        root, root / ".phalar", model, model_name="m", model_sha256="m", grid=Grid(1.0, 0.5)
    )
    return Service(model, search.Searcher(search.open_index(root)), workers=2)


@pytest.fixture(scope="module")
def client(service) -> TestClient:
    return TestClient(create_app(service, most_bytes=1 << 20), base_url="http://127.0.0.1:8017")


def test_answers_are_those_of_the_library(client, service, model, tmp_path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(seed=1))
    (tmp_path / "b.wav").write_bytes(wav(seed=2))
    files = {"a": ("a.wav", wav(seed=1)), "b": ("b.wav", wav(seed=2))}
    found = client.post("/api/score", files=files).json()
    expected = phalar.score(model, tmp_path / "a.wav", tmp_path / "b.wav")
    assert found == {"score": pytest.approx(expected, abs=1e-5), "percentile": None}

    form = {"start_s": 0.5, "seconds": 1}
    found = client.post("/api/embed", files={"file": ("a.wav", wav(seed=1))}, data=form).json()
    z = phalar.embed(model, tmp_path / "a.wav", start_s=0.5, seconds=1)
    np.testing.assert_allclose(found["real"], z.real, atol=1e-5)

    found = client.post("/api/search", files={"files": ("a.wav", wav(seed=1))}).json()
    assert len(found) == 4
    assert [each["score"] for each in found] == sorted((e["score"] for e in found), reverse=True)
    assert {each["path"] for each in found} == {
        entry.path for entry in service.searcher.index.entries
    }
    # What is sent is not found for itself, whatever it is called.
    bass = (service.searcher.index.facts.library / "bass.wav").read_bytes()
    others = client.post("/api/search", files={"files": ("mine.wav", bass)}).json()
    assert {e["path"] for e in found} - {e["path"] for e in others} == {"bass.wav"}
    form = {"instrument": ["bass"], "top": 1}
    files = [("files", ("a.wav", wav(seed=1))), ("files", ("b.wav", wav(seed=2)))]
    (one,) = client.post("/api/search", files=files, data=form).json()
    assert one["path"] == "bass.wav"
    outline = client.post("/api/waveform", files={"file": ("a.wav", wav())}).json()
    assert outline["seconds"] == pytest.approx(2)
    assert max(outline["peaks"]) == 1
    assert client.get("/api/info").json()["instruments"] == ["bass", "drums", "piano"]


def test_sound_comes_whole_in_parts_and_in_context(client, service) -> None:
    (found,) = client.post(
        "/api/search", files={"files": ("a.wav", wav())}, data={"instrument": ["piano"]}
    ).json()
    address = f"/api/audio/{found['id']}"
    content = (service.searcher.index.facts.library / "piano.wav").read_bytes()
    assert client.get(address).content == content
    part = client.get(address, headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    assert client.get(address, headers={"range": "bytes=999999999-"}).status_code == 416
    head = client.head(address)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(content))
    assert client.head("/api/audio/" + "0" * 64).status_code == 404
    download = client.get(f"{address}?download=true").headers["content-disposition"]
    assert download == 'attachment; filename="piano.wav"'

    form = {"id": found["id"], "candidate_start_s": found["start_s"]}
    for alone in (False, True):
        answer = client.post(
            "/api/audition", files={"files": ("a.wav", wav())}, data={**form, "alone": alone}
        )
        sound, rate_hz = soundfile.read(io.BytesIO(answer.content))
        assert (answer.status_code, rate_hz, len(sound)) == (200, RATE_HZ, RATE_HZ)
        assert np.abs(sound).max() > 0.01


@pytest.mark.parametrize(
    ("content", "form", "code", "why"),
    [
        (b"<html>", {}, 422, "song.wav: cannot be decoded"),
        (b"", {}, 422, "song.wav: cannot be decoded"),
        (wav(0.2), {}, 422, "0.20 s long, must be 0.5 s or more"),
        (flac()[:9_000], {}, 422, "song.wav: "),
        (wav(), {"start_s": 50}, 422, "song.wav: ends at 2.0 s, before the moment at 50 s"),
        (wav(), {"start_s": -1}, 422, "greater than or equal to 0"),
        (wav(), {"start_s": "nan"}, 422, "start_s"),
        (wav(), {"start_s": "inf"}, 422, "start_s"),
        (wav(), {"start_s": 1e300}, 422, "start_s"),
        (wav(), {"top": 10_000}, 422, "less than or equal to 200"),
        (bytes(2 << 20), {}, 413, "larger than 1 MB"),
    ],
    ids=["page", "empty", "hit", "cut", "late", "negative", "nan", "inf", "huge", "many", "large"],
)
def test_what_cannot_be_used_is_refused_with_the_reason(client, content, form, code, why) -> None:
    answer = client.post("/api/search", files={"files": ("song.wav", content)}, data=form)
    assert answer.status_code == code
    assert why in answer.text
    assert "/tmp" not in answer.text


def test_numbers_that_are_none_are_refused_everywhere(client) -> None:
    (found, *_) = client.post("/api/search", files={"files": ("a.wav", wav())}).json()
    files = {"files": ("a.wav", wav())}
    pair = {"a": ("a.wav", wav()), "b": ("b.wav", wav())}
    for value in ("inf", "-inf", "nan", "1e300"):
        for path, sent, form in (
            ("embed", {"file": ("a.wav", wav())}, {"start_s": value}),
            ("score", pair, {"start_s": value}),
            ("audition", files, {"id": found["id"], "candidate_start_s": value}),
        ):
            answer = client.post(f"/api/{path}", files=sent, data=form)
            assert (answer.status_code, path) == (422, path), value
            assert "start_s" in answer.text
    late = {"id": found["id"], "candidate_start_s": 80_000}
    assert client.post("/api/audition", files=files, data=late).status_code == 200


def test_errors_of_embed_and_score_name_the_file(client) -> None:
    for start_s, seconds, why in (
        (5, 1, "ends at 1.0 s, before the moment at 5 s"),
        (0.8, 1, "0.20 s from 0.8 s on, must be 0.5 s or more"),
        (0, 0.2, "0.20 s from 0 s on, must be 0.5 s or more"),
    ):
        short, long = ("short.wav", wav(min(1, seconds))), ("long.wav", wav(9))
        form = {"start_s": start_s}
        answers = [
            client.post("/api/embed", files={"file": short}, data=form),
            client.post("/api/score", files={"a": short, "b": long}, data=form),
            client.post("/api/score", files={"a": long, "b": short}, data=form),
        ]
        for answer in answers:
            assert answer.status_code == 422
            assert answer.json()["detail"].startswith(f"short.wav: {why}")


def test_a_body_that_does_not_say_its_length_is_counted(client) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    chunks = (part if number == 0 else bytes(1 << 16) for number in range(40))
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/api/search", content=chunks, headers=headers).status_code == 413


@pytest.mark.parametrize(
    "path",
    ["/api/audio/../secret.wav", "/api/audio/..%2f..%2fsecret.wav", "/../../secret.wav",
     "/%2e%2e/%2e%2e/secret.wav", "/api/audio/" + "0" * 64, "/swagger/../../secret.wav",
     "/page.js%00.wav", "/..%5c..%5csecret.wav"],
)  # fmt: skip
def test_nothing_but_the_library_is_read(client, path) -> None:
    assert client.get(path).status_code == 404


def test_other_sites_cannot_ask(client) -> None:
    for headers in ({"host": "evil.example"}, {"host": "127.0.0.1.evil.example:8017"},
                    {"origin": "https://evil.example"}, {"origin": "null"}, {"host": ""},
                    {"host": "[bad"}):  # fmt: skip
        assert client.get("/api/info", headers=headers).status_code == 403, headers
    for headers in ({"host": "localhost:1"}, {"host": "[::1]:8017"},
                    {"origin": "http://localhost:8017"}):  # fmt: skip
        assert client.get("/api/info", headers=headers).status_code == 200, headers


def test_other_sites_cannot_tell_what_is_there(client, service) -> None:
    known = f"/api/audio/{service.searcher.index.entries[0].sha256}"
    for path in (known, "/api/audio/" + "0" * 64, "/api/info"):
        # A page of another port of this machine is of the same site, and yet another one.
        for site in ("cross-site", "same-site"):
            answer = client.get(path, headers={"sec-fetch-site": site})
            assert (answer.status_code, "another site" in answer.text) == (403, True)
        # Browsers that do not say it, or not to a machine that is not this one, heed the answer.
        headers = client.get(path).headers
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-cache"
    for site in ("same-origin", "none"):
        assert client.get(known, headers={"sec-fetch-site": site}).status_code == 200
    # A link to the page may stand anywhere.
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200
    refused = client.get(known, headers={"host": "evil.example"})
    assert refused.headers["cross-origin-resource-policy"] == "same-origin"


def test_names_are_told_without_case(service) -> None:
    app = create_app(service, hosts=frozenset(["MyBox.local"]))
    answer = TestClient(app, base_url="http://mybox.LOCAL:8017").get("/api/info")
    assert answer.status_code == 200


def test_hostile_names_are_only_text(client) -> None:
    name = "../../etc/passwd\r\nx: y\x1b[31m<script>.wav"
    answer = client.post("/api/search", files={"files": (name, b"none")})
    assert answer.status_code == 422
    assert not re.search(r"[\x00-\x1f]", answer.json()["detail"])
    found = client.post("/api/search", files={"files": ("a.wav", wav())}).json()
    hostile = next(each for each in found if each["name"] == HOSTILE)
    header = client.get(f"/api/audio/{hostile['id']}?download=true").headers["content-disposition"]
    assert "<" not in header
    assert header.count('"') in (0, 2)


def test_pages_load_nothing_from_elsewhere(client) -> None:
    for path in ("/", "/docs", "/page.js", "/page.css", "/docs.js"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert not re.search(r"(?:src|href|url|import)\W{1,3}(?:https?:)?//", answer.text), path
    for path in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert client.get(f"/swagger/{path}").status_code == 200
    described = client.get("/api/openapi.json").json()["paths"]
    assert {"/api/embed", "/api/score", "/api/search", "/api/audio/{id}"} <= described.keys()


def schemas(part) -> Iterator[dict]:
    if isinstance(part, dict):
        yield part
    for below in (
        part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    ):
        yield from schemas(below)


def test_the_description_is_of_the_version_that_it_says(client) -> None:
    described = client.get("/api/openapi.json").json()
    assert described["openapi"] == "3.0.3"
    for schema in schemas(described):
        # All of these are of 3.1.
        assert not schema.keys() & {"contentMediaType", "const", "prefixItems", "$defs"}
        assert schema.get("type") != "null"
        assert not isinstance(schema.get("type"), list)
        assert isinstance(schema.get("exclusiveMinimum", True), bool)
    (form,) = described["paths"]["/api/search"]["post"]["requestBody"]["content"].values()
    fields = described["components"]["schemas"][form["schema"]["$ref"].rsplit("/", 1)[1]]
    files, seconds = fields["properties"]["files"], fields["properties"]["seconds"]
    assert files["items"] == {"type": "string", "format": "binary"}
    assert seconds["description"] == "Its length."
    bounds = {name: seconds[name] for name in ("type", "nullable", "minimum", "maximum")}
    assert bounds == {"type": "number", "nullable": True, "minimum": 0.5, "maximum": 60}


def test_many_at_once_get_each_their_own_answer(client) -> None:
    def ask(seed: int) -> str:
        return client.post("/api/search", files={"files": ("a.wav", wav(seed=seed))}).text

    def working() -> int:
        return sum(thread.name.startswith("phalar") for thread in threading.enumerate())

    # Those of services of other tests may still be there.
    others = working()
    seeds = [1, 2, 3]
    alone = {seed: ask(seed) for seed in seeds}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, seeds * 8))
    assert answers == [alone[seed] for seed in seeds * 8]
    assert len(set(alone.values())) == 3
    # Each thread that has computed keeps its buffers.
    assert working() - others <= 2
