"""Shards of a table at a URL: a part is written here and uploaded, and parts are joined here and replaced there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flip.cli.uploading import require_writable, upload
from flip.data.layouts.embeddings import SHARDS
from flip.embed.joining import is_joined
from flip.embed.sharding import Shard
from flip.embed.shards import shard_file
from flip.embed.table import is_table_name
from flip.errors import ConfigError, errors_naming
from flip.files import outgoing_folder
from flip.remote import Remote, at_once, find_files, open_remote, speaking_of, url_of

log = logging.getLogger("flip.cli")


class _Stored(NamedTuple):
    """A folder at a URL and the names of its files: parts of shards, files of a table, and others."""

    remote: Remote
    parts: list[str]
    tables: list[str]
    others: list[str]


@contextmanager
def folder_of_shard(output: Path, shard: Shard, cache: Path | None) -> Iterator[Path]:
    """Yield the folder that a shard is written into: ``output``, or a temporary one where that is a URL.

    The temporary folder holds a copy of the shard's part, if there is one, and of one other part or the table, whose
    description of the whole the shard is checked against. :func:`upload_part` uploads the part that was written.

    Raises
    ------
    ConfigError
        If the URL cannot be written, or holds something that is neither parts nor a table.
    DataError
        If the store cannot be reached.
    """
    url = url_of(output)
    if url is None:
        yield output
        return
    stored = _list(url)
    if stored.others and not stored.parts and not stored.tables:
        raise ConfigError(f"-o {url} holds files already; pass another folder")
    with outgoing_folder(cache, keep=False) as folder, errors_naming(url, folder):
        own = shard_file(folder, shard).relative_to(folder).as_posix()
        other_parts = [name for name in stored.parts if name != own]
        _fetch(stored.remote, [name for name in stored.parts if name == own], folder)
        _fetch(stored.remote, (other_parts or stored.tables)[:1], folder)
        yield folder


def upload_part(output: Path, part: Path) -> None:
    """Upload a shard's part, where ``output`` is a URL."""
    url = url_of(output)
    if url is not None:
        target = f"{url}/{SHARDS}/{part.name}"
        upload(part, open_remote(target))
        log.info("uploaded %s", target)


@contextmanager
def folder_to_join(folder: Path, cache: Path | None) -> Iterator[Path]:
    """Yield the folder whose shards are joined: ``folder``, or a temporary copy of it where that is a URL.

    When the block ends well the table is uploaded, and then the parts at the URL are removed: until then a reader is
    told that they are not joined, and after an interruption they can be joined again.

    Raises
    ------
    ConfigError
        If the URL cannot be written.
    DataError
        If the store cannot be reached.
    """
    url = url_of(folder)
    if url is None:
        yield folder
        return
    remote, parts, tables, others = _list(url)
    with outgoing_folder(cache, keep=False) as here:
        _fetch(remote, [*parts, *tables], here)
        if parts and is_joined(here):
            # An earlier join was interrupted while it removed them.
            _remove(remote, parts)
            shutil.rmtree(here / SHARDS)
            parts = []
        # Other Parquet files beside the table are refused by their names.
        for name in others:
            if "/" not in name and name.endswith(".parquet"):
                (here / name).touch()
        with errors_naming(url, here):
            yield here
        if parts:
            upload(here, remote)
            _remove(remote, parts)


def _list(url: str) -> _Stored:
    """List the files below a URL that can be written; no folder there counts as an empty one."""
    remote = open_remote(url)
    require_writable(remote)
    with speaking_of(url):
        remote.files.invalidate_cache()
        names = list(find_files(remote)) if remote.files.exists(remote.path) else []
    parts, tables = list(filter(_is_part, names)), list(filter(is_table_name, names))
    return _Stored(remote, parts, tables, [name for name in names if name not in {*parts, *tables}])


def _is_part(name: str) -> bool:
    path = PurePosixPath(name)
    return path.parent == PurePosixPath(SHARDS) and path.suffix == ".parquet"


def _fetch(remote: Remote, names: list[str], folder: Path) -> None:
    """Download files to the same places below a folder."""

    def fetch(name: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with speaking_of(f"{remote.url}/{name}"):
            remote.files.get_file(f"{remote.path.rstrip('/')}/{name}", str(folder / name))

    at_once(fetch, names)


def _remove(remote: Remote, names: list[str]) -> None:
    """Remove files one by one: fsspec's ``rm`` takes names as glob patterns."""

    def remove(name: str) -> None:
        with speaking_of(f"{remote.url}/{name}"):
            remote.files.rm_file(f"{remote.path.rstrip('/')}/{name}")

    at_once(remove, names)
