"""The command `phalar serve` as a process: its address, its answers, many who ask, and its end."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from test_serve import wav

import phalar
from phalar import search
from phalar.model import ModelConfig, build_model, save_model
from phalar.search.windows import Grid

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn", reason="pip install 'phalar[serve]'")

WAIT_S = 120.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, and the index of a library of three stems."""
    root = tmp_path_factory.mktemp("process")
    save_model(build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)), root / "m")
    (root / "stems").mkdir()
    for seed, name in enumerate(["bass.wav", "drums.wav", "piano.wav"]):
        (root / "stems" / name).write_bytes(wav(3, seed=10 + seed))
    indexed(root)
    return root


def indexed(root: Path) -> None:
    """Bring the index up to date, as `phalar index update` does."""
    model = phalar.load_model(root / "m")
    search.update(root / "stems", root / "stems/.phalar", model, model_name=str(root / "m"),
                  model_sha256=model.sha256, grid=Grid(1.0, 0.5))  # fmt: skip


@contextmanager
def served(root: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command; give the process, and the address that it printed."""
    command = [sys.executable, "-m", "phalar.cli", "serve", "--index", str(root / "stems")]
    server = subprocess.Popen(
        [*command, "--port", "0", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        said = server.stdout.readline()
        address = re.search(r"http://\S+", said)
        assert address, said + server.stderr.read()
        yield server, address[0]
    finally:
        server.kill()
        server.communicate()


def ended(server: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[float, str]:
    """Interrupt the process; how long it took to end, and what it said besides its address."""
    start = time.monotonic()
    server.send_signal(number)
    _, said = server.communicate(timeout=WAIT_S)
    return time.monotonic() - start, said


def upload_left_open(address: str) -> socket.socket:
    """Begin to send a file, and stop."""
    host, port = address.removeprefix("http://").rsplit(":", 1)
    client = socket.create_connection((host, int(port)))
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    client.sendall(
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + part + bytes(5000)
    )
    return client


def test_it_listens_when_it_says_so_answers_and_ends(folder) -> None:
    with served(folder) as (server, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        # At once: no second try.
        assert httpx.get(f"{address}/api/info", timeout=WAIT_S).json()["files"] == 3
        files = {"files": ("mix.wav", wav())}
        found = httpx.post(f"{address}/api/search", files=files, timeout=WAIT_S).json()
        assert len(found) == 3
        assert httpx.head(f"{address}/api/audio/{found[0]['id']}").status_code == 200
        left = upload_left_open(address)
        time.sleep(0.5)
        took_s, said = ended(server)
        left.close()
    assert took_s < 10
    assert (server.returncode, said) == (130, "")


def test_an_update_is_seen_while_it_runs(folder, tmp_path) -> None:
    root = tmp_path / "moved"
    shutil.copytree(folder, root)
    with served(root, "--model", str(root / "m")) as (server, address):
        assert httpx.get(f"{address}/api/info", timeout=WAIT_S).json()["files"] == 3
        command = [sys.executable, "-m", "phalar.cli", "index", "update", str(root / "stems"),
                   "--model", str(root / "m")]  # fmt: skip
        (root / "stems/guitar.wav").write_bytes(wav(3, seed=20))
        (root / "stems/bass.wav").unlink()
        assert "1 heard" in subprocess.run(command, capture_output=True, text=True).stdout
        info = httpx.get(f"{address}/api/info", timeout=WAIT_S).json()
        assert (info["files"], info["instruments"]) == (3, ["drums", "guitar", "piano"])
        files = {"files": ("mix.wav", wav())}
        found = httpx.post(f"{address}/api/search", files=files, timeout=WAIT_S).json()
        names = {each["name"]: each["id"] for each in found}
        assert names.keys() == {"drums.wav", "guitar.wav", "piano.wav"}
        heard = httpx.get(f"{address}/api/audio/{names['guitar.wav']}").content
        assert heard == (root / "stems/guitar.wav").read_bytes()
        ended(server)


def test_a_search_nobody_waits_for_is_not_begun(folder, tmp_path) -> None:
    mix = wav(30)

    def ask(timeout_s: float) -> int:
        form = {"transpose": 2, "seconds": 20}
        try:
            files = {"files": ("mix.wav", mix)}
            found = httpx.post(f"{address}/api/search", files=files, data=form, timeout=timeout_s)
            return found.status_code
        except httpx.ReadTimeout:
            return 0

    with served(folder) as (server, address):
        start = time.monotonic()
        assert ask(WAIT_S) == 200
        alone_s = time.monotonic() - start
        with ThreadPoolExecutor(30) as pool:
            assert set(pool.map(ask, [0.3] * 30)) == {0}
        start = time.monotonic()
        assert ask(WAIT_S) == 200
        # Of the thirty, those that had begun are ended: one a core, and none besides.
        assert time.monotonic() - start < (4 + (os.cpu_count() or 1)) * alone_s
        ended(server)


def test_while_many_search_the_page_is_still_answered(folder) -> None:
    mix, stop = wav(20), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            form = {"transpose": 1, "seconds": 10}
            try:
                httpx.post(f"{address}/api/search", files={"files": ("m.wav", mix)}, data=form)
            except httpx.HTTPError:
                return

    with served(folder) as (server, address):
        threads = [threading.Thread(target=ask) for _ in range(60)]
        for thread in threads:
            thread.start()
        time.sleep(2)
        took_s = []
        for path in ("/api/info", "/page.js", "/", "/api/info"):
            start = time.monotonic()
            assert httpx.get(f"{address}{path}", timeout=WAIT_S).status_code == 200
            took_s.append(time.monotonic() - start)
        stop.set()
        took_to_end_s, said = ended(server)
        for thread in threads:
            thread.join()
    assert max(took_s) < 3
    assert said == ""
    assert took_to_end_s < 20


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ("--host nowhere.invalid", 2, "nowhere.invalid: not an address of this machine"),
        ("--host 203.0.113.7", 2, "203.0.113.7: not an address of this machine"),
        ("--name http://mybox:8017", 2, "--name http://mybox:8017: must be a host's name"),
        ("--name mybox:8017", 2, "or address, without a port"),
        ("--name my,box", 2, "or address, without a port"),
        ("--port TAKEN", 1, "already in use; name another with --port"),
    ],
)
def test_where_it_cannot_listen_it_says_why_in_a_line(call, words, code, why) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = words.replace("TAKEN", str(taken.getsockname()[1]))
        found, out, err = call(f"serve --index stems {words}")
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert why in err


def test_at_all_addresses_it_is_asked_by_each_and_by_names_given(folder) -> None:
    with served(folder, "--host", "0.0.0.0", "--name", "MyBox.local") as (server, address):
        port = address.rsplit(":", 1)[1]
        for host in ("127.0.0.1", "127.0.0.2", socket.gethostbyname(socket.gethostname())):
            at = f"http://{host}:{port}/api/info"
            assert httpx.get(at, timeout=WAIT_S).status_code == 200, host
            origin = {"origin": f"http://{host}:{port}"}
            assert httpx.get(at, headers=origin).status_code == 200, host
        for name, code in (("mybox.local", 200), ("MYBOX.LOCAL:1", 200), ("localhost", 200),
                           ("192.0.2.9", 403), ("evil.example", 403)):  # fmt: skip
            answer = httpx.get(f"{address}/api/info", headers={"host": name})
            assert answer.status_code == code, name
        assert "--name adds" in answer.json()["detail"]
        _, said = ended(server)
    assert re.search(r"every machine that reaches it can ask", said)
    for name in ("mybox.local", "localhost", "127.0.0.1", "any address of this machine"):
        assert name in said
    assert "0.0.0.0," not in said
