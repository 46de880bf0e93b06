"""Shards of a table at a URL: a part is written here and uploaded, and parts are joined here and replaced there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from flip.cli.context import is_main_process
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


@contextmanager
def folder_of_shard(output: Path, shard: Shard, cache: Path | None) -> Iterator[Path]:
    """Yield the folder that a shard is written into: ``output``, or one here where that is a URL.

    What is yielded for a URL holds the shard's part as far as it is there, and another by which the shard knows that
    it is of the same table. A part that was written is uploaded when the block ends well.

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
    remote = open_remote(url)
    require_writable(remote)
    names = _names(remote)
    parts = [name for name in names if _is_part(name)]
    tables = [name for name in names if is_table_name(name)]
    if names and not parts and not tables:
        raise ConfigError(f"-o {url} holds files already; pass another folder")
    with outgoing_folder(cache, keep=False) as folder:
        own = shard_file(folder, shard)
        mine = own.relative_to(folder).as_posix()
        others = [name for name in parts if name != mine] or tables
        _fetch(remote, [name for name in names if name == mine] + others[:1], folder)
        before = _state(own)
        with errors_naming(url, folder):
            yield folder
        if is_main_process() and own.is_file() and _state(own) != before:
            upload(own, remote._replace(path=f"{remote.path.rstrip('/')}/{mine}", url=f"{url}/{mine}"))
            log.info("uploaded %s/%s", url, mine)


@contextmanager
def folder_to_join(folder: Path, cache: Path | None) -> Iterator[Path]:
    """Yield the folder whose shards are joined: ``folder``, or one here with what lies there where that is a URL.

    When the block ends well the table is uploaded, and then the parts there are removed: until then a reader is told
    that they are not joined, and after an interruption they can be joined again.

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
    remote = open_remote(url)
    require_writable(remote)
    names = _names(remote)
    parts = [name for name in names if _is_part(name)]
    tables = [name for name in names if is_table_name(name)]
    with outgoing_folder(cache, keep=False) as here:
        # Without parts a table says whether it was joined before, and beside parts whether it is theirs.
        _fetch(remote, [*parts, *tables[:1]], here)
        if parts and is_joined(here):
            # An earlier join was interrupted while it removed them.
            _remove(remote, parts)
            shutil.rmtree(here / SHARDS)
            parts = []
        for name in names:
            if "/" not in name and name.endswith(".parquet") and not is_table_name(name):
                (here / name).touch()
        with errors_naming(url, here):
            yield here
        if parts:
            upload(here, remote)
            _remove(remote, parts)


def _names(remote: Remote) -> list[str]:
    """Return what lies below a URL, by name; nothing where there is no such folder."""
    with speaking_of(remote.url):
        remote.files.invalidate_cache()
        there = remote.files.exists(remote.path)
    return list(find_files(remote)) if there else []


def _remove(remote: Remote, names: list[str]) -> None:
    """Remove files; a name may have characters that would be a pattern elsewhere."""

    def remove(name: str) -> None:
        with speaking_of(f"{remote.url}/{name}"):
            remote.files.rm_file(f"{remote.path.rstrip('/')}/{name}")

    at_once(remove, names)


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


def _state(file: Path) -> tuple[int, int] | None:
    """Return what tells whether a file was replaced."""
    if not file.is_file():
        return None
    state = file.stat()
    return state.st_ino, state.st_mtime_ns
