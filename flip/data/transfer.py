"""Downloading one file over HTTP, continued where it stopped."""

from __future__ import annotations

import contextlib
import http.client
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from flip.errors import DataError
from flip.settings import Progress

log = logging.getLogger(__name__)

#: Attempts in a row that bring nothing, before a download is given up.
ATTEMPTS = 3
#: Seconds without a byte after which a connection counts as broken.
TIMEOUT = 30.0
_BLOCK = 1 << 20


def receive(
    url: str,
    part: Path,
    progress: Progress | None = None,
    *,
    attempts: int = ATTEMPTS,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Download a file, from the length on that it has here (HTTP Range); broken connections are taken up again.

    A server that does not know ranges sends the whole file, which then replaces what was here.

    Parameters
    ----------
    url : str
    part : Path
    progress : callable, optional
        Called with the number of bytes that were just received, or were there.
    attempts : int
        Attempts in a row that bring nothing, before it is given up.
    wait : callable
        Called with the seconds between two attempts.

    Raises
    ------
    DataError
        If the address cannot be reached, or refuses.
    """
    reported = failures = 0
    while True:
        before = _length(part)
        try:
            for length in _received(url, part):
                if progress and length > reported:
                    progress(length - reported)
                    reported = length
            return
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            reason = _reason(url, part, error)
            failures = 0 if _length(part) > before else failures + 1
            if failures >= attempts:
                raise DataError(
                    f"{url} cannot be reached ({reason}); run the command again to continue with the "
                    f"{_length(part):,} bytes that are here, or {_by_hand(part)}"
                ) from error
        log.debug("%s: %s; trying again", url, reason)
        wait(2.0 ** (failures - 1))


def _reason(url: str, part: Path, error: Exception) -> str:
    """Return why a connection failed, in a few words; raise where another attempt would fail as well."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code < 500 and error.code not in (408, 429):
            raise DataError(f"{url} answers {error.code} {error.reason}; {_by_hand(part)}") from error
        return f"{error.code} {error.reason}"
    return str(getattr(error, "reason", None) or error)


def _by_hand(part: Path) -> str:
    return f"download it yourself to {part.with_suffix('')} and run the command again"


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _received(url: str, part: Path) -> Iterator[int]:
    """Yield the length of the part, first and after each block, until it is the whole file."""
    start = _length(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies behind the part: it is whole, or longer than the file has become.
        if _total(error.headers.get("Content-Range")) == start:
            yield start
            return
        part.unlink()
        yield from _received(url, part)
        return
    with response:
        continued = response.status == 206
        if continued and _start(response.headers.get("Content-Range")) != start:
            part.unlink()
            raise http.client.HTTPException("it sent another range than was asked for")
        start = start if continued else 0
        expected = int(response.headers.get("Content-Length") or -1)
        with part.open("ab" if continued else "wb") as file:
            yield from _copied(response, file, start, start + expected if expected >= 0 else None)


def _copied(response: http.client.HTTPResponse, file: BinaryIO, length: int, whole: int | None) -> Iterator[int]:
    yield length
    while block := response.read(_BLOCK):
        file.write(block)
        length += len(block)
        yield length
    if whole is not None and length < whole:
        raise ConnectionError(f"the connection ended after {length:,} of {whole:,} bytes")


def _start(content_range: str | None) -> int | None:
    """Return where the bytes of ``bytes 500-999/1000`` begin."""
    with contextlib.suppress(ValueError, AttributeError, IndexError):
        return int(str(content_range).removeprefix("bytes ").partition("-")[0])
    return None


def _total(content_range: str | None) -> int | None:
    """Return the length of the whole file as ``bytes */1000`` has it."""
    with contextlib.suppress(ValueError):
        return int(str(content_range).rpartition("/")[2])
    return None
