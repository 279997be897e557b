"""One published file: found or fetched, resumed where it stopped, checked, named when whole."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

from phalar import progress
from phalar.params import Fetch
from phalar.sources import Archive

logger = logging.getLogger(__name__)

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""What a server says when the same request may succeed a little later."""
LONGEST_WAIT_S = 60.0
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file whose bytes are what they should be."""

    path: Path
    bytes: int
    md5: str
    sha256: str


class Passing(Exception):  # noqa: N818 - it may pass by itself
    """A fault of the network; `wait_s` is how long the server asks to be left alone."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def client(settings: Fetch) -> httpx.Client:
    """Open connections that time out where nothing comes, and go through the usual proxies.

    httpx takes proxies from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.
    """
    # Compressed on the way, a file could not be resumed at a byte.
    headers = {"Accept-Encoding": "identity", "User-Agent": "phalar"}
    return httpx.Client(follow_redirects=True, timeout=settings.timeout_s, headers=headers)


def obtain(
    archive: Archive,
    folder: Path,
    settings: Fetch,
    *,
    web: httpx.Client,
    sha256: str | None,
    stop: threading.Event,
) -> Fetched:
    """Take an archive that the user has, or fetch it into `folder`; check it either way.

    Parameters
    ----------
    archive : Archive
    folder : Path
        Of downloads, where an earlier try may have left a part.
    settings : Fetch
    web : httpx.Client
    sha256 : str or None
        What an earlier download of the same archive had, where the publisher says nothing.
    stop : threading.Event
        Ends the transfer early, as a fault that passes.

    Raises
    ------
    ConnectionError
        The network fails for as many tries as the settings allow.
    OSError
        The server refuses, the bytes are not those of the publisher, or the disk is full.
    """
    expected = {"md5": archive.md5, "sha256": archive.sha256 or sha256}
    if archive.path is not None:
        return _check(archive.path, archive, expected)
    own = settings.have and Path(settings.have) / archive.name
    if own and own.is_file():
        logger.info("download: %s is there already", own)
        return _check(own, archive, expected)
    target = folder / archive.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        # A part whose beginning is of another day can end wrong; the whole anew cannot.
        for is_last in (False, True):
            resumed = _transfer(archive, target, settings, web=web, stop=stop)
            try:
                return _check(target, archive, expected)
            except OSError as error:
                target.unlink()
                if is_last or not resumed:
                    raise
                logger.warning("download: %s; once more from the start", error)
    return _check(target, archive, expected)


def _check(path: Path, archive: Archive, expected: dict[str, str | None]) -> Fetched:
    """Compare size and checksums with what is known of the file."""
    size = path.stat().st_size
    if archive.size_bytes is not None and size != archive.size_bytes:
        raise OSError(
            f"{path}: {size} bytes, the publisher says {archive.size_bytes}; it is another file or "
            f"incomplete: get it from {archive.url}"
        )
    found = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            for sum_ in found.values():
                sum_.update(chunk)
    for name, wanted in expected.items():
        if wanted is not None and found[name].hexdigest() != wanted:
            raise OSError(
                f"{path}: {name} is {found[name].hexdigest()}, must be {wanted}; it is damaged or "
                f"another file: get it from {archive.url}"
            )
    return Fetched(path, size, found["md5"].hexdigest(), found["sha256"].hexdigest())


def _transfer(
    archive: Archive, target: Path, settings: Fetch, *, web: httpx.Client, stop: threading.Event
) -> bool:
    """Fetch a whole file, over as many connections as it takes; tell whether a part was resumed."""
    part = target.with_name(f"{target.name}.part")
    url = mirrored(archive.url, settings.mirrors)
    failures, resumed = 0, False
    show = progress.transfer(f"download {archive.name}")
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            resumed |= _once(url, part, archive, web=web, stop=stop, show=show)
            break
        except (httpx.TransportError, Passing) as error:
            after = part.stat().st_size if part.exists() else 0
            # A connection that brought something on counts for none.
            failures = 1 if after > before else failures + 1
            reason = str(error) or type(error).__name__
            if failures >= settings.tries or stop.is_set():
                raise ConnectionError(
                    f"{url}: {reason}, {failures} times in a row; check the network, then run "
                    f"again: it goes on from byte {after}"
                ) from error
            asked_s = error.wait_s if isinstance(error, Passing) else 0.0
            wait_s = min(max(2.0 ** (failures - 1), asked_s), LONGEST_WAIT_S)
            logger.warning("download: %s: %s; again in %.0f s", url, reason, wait_s)
            stop.wait(wait_s)
        except httpx.HTTPError as error:
            raise OSError(f"{url}: {error}; mend the address or download.fetch") from error
    part.replace(target)
    _note(part).unlink()
    return resumed


def mirrored(url: str, mirrors: dict[str, str]) -> str:
    """Put a mirror in the place of the beginning of an address."""
    for start, mirror in mirrors.items():
        if url.startswith(start):
            return mirror + url.removeprefix(start)
    return url


def _once(
    url: str, part: Path, archive: Archive, *, web: httpx.Client, stop: threading.Event, show: Any
) -> bool:
    """Fetch what is missing of a file over one connection; tell whether a part was resumed."""
    asked = _range(part, url, known=bool(archive.md5 or archive.sha256))
    have = part.stat().st_size if asked else 0
    with web.stream("GET", url, headers=asked) as answer:
        if answer.status_code == 416:
            part.unlink()
            raise Passing("the server has no such range")
        _refuse(url, answer)
        start = _start(answer)
        if start not in (0, have):
            part.unlink()
            raise Passing(f"asked for byte {have}, the server sends byte {start}")
        total = _total(answer, start)
        if None not in (total, archive.size_bytes) and total != archive.size_bytes:
            raise OSError(
                f"{url}: the server has {total} bytes, the publisher says {archive.size_bytes}; "
                f"another file lies there: use a mirror (download.fetch.mirrors) or your own copy "
                f"(download.fetch.have)"
            )
        _refuse_space(part, (total or 0) - start)
        _note(part).write_text(json.dumps({"url": url, "validator": _validator(answer)}))
        with part.open("r+b" if start else "wb") as file:
            show(start, total)
            file.seek(start)
            file.truncate()
            for chunk in _chunks(answer, stop):
                file.write(chunk)
                show(file.tell(), total)
            size = file.tell()
    if total is not None and size != total:
        raise Passing(f"ended after {size} of {total} bytes")
    return start > 0


def _chunks(answer: httpx.Response, stop: threading.Event) -> Iterator[bytes]:
    for chunk in answer.iter_raw():
        if stop.is_set():
            raise Passing("stopped")
        yield chunk


def _note(part: Path) -> Path:
    """Where it stands what a part is a part of."""
    return part.with_name(f"{part.name}.json")


def _range(part: Path, url: str, *, known: bool) -> dict[str, str]:
    """Headers that ask for the rest; none where a part cannot be told from that of another file."""
    try:
        note = json.loads(_note(part).read_text())
        have = part.stat().st_size
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    if not have or note["url"] != url or not (note["validator"] or known):
        return {}
    validator = {"If-Range": note["validator"]} if note["validator"] else {}
    return {"Range": f"bytes={have}-"} | validator


def _validator(answer: httpx.Response) -> str | None:
    """What tells this version of the file from the next: a strong ETag, else its date."""
    etag = answer.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    date = answer.headers.get("Last-Modified")
    return str(date) if date else None


def _refuse(url: str, answer: httpx.Response) -> None:
    """Raise where the answer is not the file."""
    code, reason = answer.status_code, answer.reason_phrase
    if code in PASSING:
        after = answer.headers.get("Retry-After", "")
        raise Passing(f"the server says {code} {reason}", float(after) if after.isdigit() else 0.0)
    if code not in (200, 206):
        raise OSError(
            f"{url}: the server says {code} {reason}; it has moved or needs a login: use a mirror "
            f"(download.fetch.mirrors) or your own copy (download.fetch.have)"
        )
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise OSError(f"{url}: the server packs what it sends; use a mirror or your own copy")


def _start(answer: httpx.Response) -> int:
    """First byte that an answer holds."""
    if answer.status_code == 200:
        return 0
    found = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _total(answer: httpx.Response, start: int) -> int | None:
    """Size of the whole file, where the server says."""
    length = answer.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _refuse_space(part: Path, missing_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    free = shutil.disk_usage(part.parent).free
    if missing_bytes > free:
        raise OSError(
            f"{part}: {missing_bytes / 1e9:.1f} GB are missing, {free / 1e9:.1f} GB are free; free "
            f"space, then run again: it goes on where it stopped"
        )


def copy(source: IO[bytes], target: Path) -> tuple[int, str]:
    """Write a stream to a new file; return its size and SHA-256."""
    sum_, size = hashlib.sha256(), 0
    with target.open("xb") as file:
        for chunk in iter(lambda: source.read(CHUNK_BYTES), b""):
            sum_.update(chunk)
            size += file.write(chunk)
    return size, sum_.hexdigest()
