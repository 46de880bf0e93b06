"""Files at URLs (``s3://``, ``gs://``, ``hf://``, ``https://``, …): the only place that knows fsspec."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote

from flip.errors import DataError, FlipError, MissingDependencyError
from flip.mounts import FileState

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: A path object has one slash where the URL has two.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?=[^/])")

#: The package that each protocol needs; other protocols are told by fsspec's own message.
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a", "http", "https"), "'flip-clip[remote]'"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    "hf": "huggingface_hub",
    "sftp": "paramiko",
}

#: Entries in which servers describe a file's content, the surest first.
_TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "content_md5", "blob_id")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "Last-Modified", "created")

#: Requests that wait for an answer at the same time.
AT_ONCE = 16

_T = TypeVar("_T")
_R = TypeVar("_R")


def url_of(path: str | Path) -> str | None:
    """Return the URL that a path is, with both slashes; None where it is a path of this machine."""
    text = str(path)
    found = _URL.match(text)
    if found is None or found[1].lower() in ("file", "local") or os.path.exists(text):  # noqa: PTH110
        return None
    return f"{found[1].lower()}://{text[found.end() :]}".rstrip("/")


def local_path(path: str | Path) -> Path:
    """Convert a ``file://`` address to a path; a path is returned as it is."""
    text = str(path)
    return Path("/", unquote(text.removeprefix("file:")).lstrip("/")) if text.startswith("file:/") else Path(path)


class Remote(NamedTuple):
    """A file system, and a path in it without the protocol."""

    files: AbstractFileSystem
    path: str
    url: str


def open_remote(url: str) -> Remote:
    """Return the file system of a URL; nothing is asked of it.

    Raises
    ------
    MissingDependencyError
        If the protocol's package is not installed.
    DataError
        If the protocol is unknown.
    """
    import fsspec

    protocol = url.partition("://")[0]
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        advice = f"pip install {package}" if package else str(error)
        raise MissingDependencyError(
            f"{url} cannot be read: {protocol}:// needs a package that is not here; {advice}"
        ) from error
    except ValueError as error:
        raise DataError(f"{url} cannot be read ({error}); pass s3://, gs://, hf:// or https://, or a path") from error
    return Remote(files, str(path), url)


@contextlib.contextmanager
def speaking_of(url: str) -> Iterator[None]:
    """Turn whatever a file system raises inside of the block into one line about a URL.

    Raises
    ------
    DataError
    """
    try:
        yield
    except (FlipError, MemoryError):
        raise
    except Exception as error:
        # The libraries of a dozen protocols have no error in common.
        raise DataError(f"{url} cannot be reached: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return why a request failed, and what to do, in one line."""
    causes = list(_causes(error))
    for fits, what, advice in _REASONS:
        cause = next((cause for cause in causes if fits(cause)), None)
        if cause is not None:
            return f"{what} ({_said(cause)}); {advice}"
    return f"{_said(error)}; check the address"


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__


def _is_unconnected(error: BaseException) -> bool:
    return isinstance(error, (ConnectionError, TimeoutError)) or "Connect" in type(error).__name__


_REASONS: tuple[tuple[Callable[[BaseException], bool], str, str], ...] = (
    (
        lambda error: "Credential" in type(error).__name__ or "credentials" in str(error),
        "no credentials that it takes",
        "set those of the store, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for a "
        "public bucket",
    ),
    (_is_unconnected, "no connection", "check the address and the network"),
    (
        lambda error: isinstance(error, PermissionError),
        "access is denied",
        "check the credentials and their rights",
    ),
    (lambda error: isinstance(error, FileNotFoundError), "it is not there", "check the bucket and the path"),
)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def find_files(remote: Remote) -> dict[str, FileState]:
    """Return the files below a URL by their paths relative to it, in sorted order.

    Raises
    ------
    DataError
        If it cannot be listed.
    """
    with speaking_of(remote.url):
        found: Mapping[str, Mapping[str, Any]] = remote.files.find(remote.path, detail=True)
    below = remote.path.rstrip("/") + "/"
    states, unknown = dict[str, FileState](), list[str]()
    for path, info in sorted(found.items()):
        name = path.removeprefix(below)
        if name and name != path and not name.endswith("/") and info.get("type") != "directory":
            states[name] = _state(f"{remote.url}/{name}", info)
            if info.get("size") is None:
                unknown.append(name)
    # A page that links files does not say how long they are.
    asked = at_once(lambda name: state_of_remote(Remote(remote.files, below + name, f"{remote.url}/{name}")), unknown)
    return states | {name: state for name, state in zip(unknown, asked, strict=True) if state is not None}


def state_of_remote(remote: Remote) -> FileState | None:
    """Return the state of one file; None where there is none, or a folder.

    Raises
    ------
    DataError
        If the store cannot be asked.
    """
    with speaking_of(remote.url):
        try:
            info = remote.files.info(remote.path)
        except FileNotFoundError as error:
            # HTTP's file system says so of hosts that do not answer too.
            if any(map(_is_unconnected, _causes(error))):
                raise
            return None
        if info.get("type") == "directory":
            return None
        if info.get("size") is None:
            info = {**info, "size": len(remote.files.cat_file(remote.path))}
    return _state(remote.url, info)


def _state(url: str, info: Mapping[str, Any]) -> FileState:
    tag = next((str(info[name]) for name in _TAGS if info.get(name)), None)
    told = tag or next((str(_stamp(info[name])) for name in _TIMES if info.get(name)), None)
    # Without either it counts as changed, and its content is compared.
    told = told or str(os.urandom(8))
    number = int.from_bytes(hashlib.blake2b(told.encode(), digest_size=8).digest(), "little") >> 2
    return FileState(url, int(info.get("size") or 0), number, tag=tag)


def _stamp(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def read_files(remote: Remote, names: Iterable[str], keep: Callable[[str, bytes], None]) -> None:
    """Read small files below a URL, several at a time, and hand each to ``keep``.

    Raises
    ------
    DataError
        If one cannot be read.
    """

    def read(name: str) -> None:
        with speaking_of(f"{remote.url}/{name}"):
            data = remote.files.cat_file(f"{remote.path.rstrip('/')}/{name}")
        keep(name, data)

    at_once(read, names)


def at_once(call: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Call a function of each item in several threads, and return the results in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, items))
