"""Data at a URL: a folder in the cache that names every file, holds the tables, and leaves the photos where they are.

Readers of layouts list this folder as any other. Photos and tars are links to nothing, which :mod:`flip.mounts` serves
from the URL when they are opened.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flip.data.remote_mount import RemoteMount
from flip.data.samples import expand
from flip.data.table_files import READERS
from flip.errors import DataError, reason_of
from flip.files import cache_folder, folder_aside, json_text
from flip.mounts import FileState, mount
from flip.reading import read_json
from flip.remote import Remote, at_once, find_files, open_remote, read_files, speaking_of, state_of_remote

log = logging.getLogger(__name__)

_LISTING = ".flip-listing.json"

#: Suffixes of what layouts read before any photo: it is fetched at once. Everything else is read when it is asked for.
_TABLES = frozenset({*READERS, ".txt", ".json", ".mat", ".md", ".npy"})

#: Bytes of a name that file systems take.
_LONGEST = 255

#: Protocols by which a table may name its photos: none of them reads this machine.
PHOTO_PROTOCOLS = frozenset({"http", "https", "s3", "gs", "gcs", "hf", "az", "abfs"})

#: Protocols whose folders cannot be listed.
_UNLISTED = ("http", "https")


class Localised(NamedTuple):
    """Data at a URL as readers take it: its path, the folder in the cache that it is or lies in, and that one's URL."""

    path: Path
    folder: Path
    url: str


def localise(url: str, cache: Path | None = None) -> Localised:
    """Return a path of this machine under which data at a URL is read.

    Parameters
    ----------
    url : str
        Of a folder, a table, a tar, or a pattern of tars.
    cache : Path or None
        The cache; the platform's without it.

    Raises
    ------
    DataError
        If there is nothing, it cannot be reached, or the cache cannot be written.
    MissingDependencyError
        If the protocol's package is not installed.
    """
    parent, _, name = url.rpartition("/")
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".tar":
        # Tars are named one by one, so that no bucket has to be listed.
        parent = url.partition("{")[0].rpartition("/")[0]
        urls = expand(url) if "{" in url else [url]
        found = at_once(lambda one: _require(open_remote(one)), urls)
        states = {one[len(parent) + 1 :]: state for one, state in zip(urls, found, strict=True)}
    elif suffix in READERS:
        states = {name: _require(open_remote(url))}
        if url.partition("://")[0] not in _UNLISTED:
            # The photos of a table lie beside it.
            states |= find_files(open_remote(parent))
    else:
        folder = _mirror(open_remote(url), url, _listed(open_remote(url)), cache)
        return Localised(folder, folder, url)
    folder = _mirror(open_remote(parent), url, states, cache)
    return Localised(folder / url[len(parent) + 1 :], folder, parent)


def serve_urls(root: Path, urls: Iterable[str]) -> None:
    """Serve what a table names by URLs below its folder, under the URLs themselves.

    Raises
    ------
    MissingDependencyError
        If the package of one of their protocols is not installed.
    """
    for protocol in PHOTO_PROTOCOLS & {url.partition("://")[0] for url in urls}:
        open_remote(f"{protocol}://flip")
        mount(root / f"{protocol}:", RemoteMount(f"{protocol}:/"))


def _require(remote: Remote) -> FileState:
    state = state_of_remote(remote)
    if state is None:
        raise DataError(f"no file {remote.url}; check the bucket and the path")
    return state


def _listed(remote: Remote) -> dict[str, FileState]:
    with speaking_of(remote.url):
        remote.files.info(remote.path)
    states = find_files(remote)
    if not states:
        raise DataError(f"{remote.url} is empty, or its server lists no files; pass a table or tars in it")
    return states


def _mirror(remote: Remote, given: str, states: Mapping[str, FileState], cache: Path | None) -> Path:
    """Return the folder in the cache that stands for what was given, made anew where something there has changed."""
    states = _kept(remote.url, states)
    digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    folder = cache_folder(cache) / "remote" / f"{PurePosixPath(remote.path).name or 'data'}-{digest}"
    listing = [[name, state.size, state.mtime_ns] for name, state in states.items()]
    try:
        if _read_listing(folder) != listing:
            log.info("listing %s: %s files", remote.url, f"{len(states):,}")
            with folder_aside(folder) as aside:
                _write(remote, states, aside)
                (aside / _LISTING).write_text(json_text(listing), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"the list of {remote.url} cannot be kept in {folder} ({reason_of(error)}); pass --cache"
        ) from error
    mount(folder, RemoteMount(remote.url, states))
    return folder


def _kept(url: str, states: Mapping[str, FileState]) -> dict[str, FileState]:
    """Return the files whose names a folder can hold: a store takes any, and a file beside a folder of its name."""
    folders = {str(parent) for name in states for parent in PurePosixPath(name).parents}
    kept = {name: state for name, state in states.items() if _is_harmless(name) and name not in folders}
    if len(kept) < len(states):
        first = next(name for name in states if name not in kept)
        log.info("%s: left out %d names that no folder can hold, the first %s", url, len(states) - len(kept), first)
    return kept


def _is_harmless(name: str) -> bool:
    parts = name.split("/")
    return not {"", ".", ".."} & {*parts} and "\0" not in name and all(len(os.fsencode(p)) <= _LONGEST for p in parts)


def _read_listing(folder: Path) -> object:
    try:
        return read_json(folder / _LISTING)
    except (OSError, ValueError):
        return None


def _write(remote: Remote, states: Mapping[str, FileState], folder: Path) -> None:
    tables = []
    for name in states:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if PurePosixPath(name).suffix.lower() in _TABLES:
            tables.append(name)
        else:
            (folder / name).symlink_to(states[name].name)
    read_files(remote, tables, lambda name, data: _keep(folder / name, data))


def _keep(file: Path, data: bytes) -> None:
    file.write_bytes(data)
