"""Outputs at URLs: written here first, as any output, and uploaded whole when the command has ended well."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from flip.cli.context import is_main_process
from flip.errors import ConfigError
from flip.settings import flag

if TYPE_CHECKING:
    from flip.remote import Remote

log = logging.getLogger("flip.cli")

#: Options that name an output, beside those that say what they write.
_OUTPUTS = frozenset({"output", "run", "save", "save_as"})

#: The exit code of a command that is done and found unreadable inputs under ``--strict``.
_STRICT = 3


class _Upload(NamedTuple):
    here: Path
    remote: Remote


@contextmanager
def delivered(options: Any) -> Iterator[Any]:
    """Yield options whose outputs lie on this machine; those that were named by URLs are uploaded at the end.

    What a command made that fails is kept here, and said.

    Raises
    ------
    ConfigError
        If an option is a URL that only takes paths, an output cannot be written there, or holds files already.
    DataError
        If a store cannot be reached.
    """
    urls = _urls(options)
    if not urls:
        yield options
        return
    from flip.cli.uploading import require_free
    from flip.files import outgoing_folder
    from flip.remote import open_remote

    remotes = {name: open_remote(url) for name, url in urls.items()}
    for f in fields(options):
        if f.name in remotes and is_main_process():
            is_folder = f.metadata.get("writes", "folder") == "folder"
            require_free(remotes[f.name], folder=is_folder, overwrite=getattr(options, "overwrite", None))
    with outgoing_folder(getattr(options, "cache", None)) as folder:
        uploads = {name: _Upload(folder / name / _name(remote.url), remote) for name, remote in remotes.items()}
        ended: typer.Exit | None = None
        try:
            try:
                yield replace(options, **{name: upload.here for name, upload in uploads.items()})
            except typer.Exit as strict:
                if strict.exit_code != _STRICT:
                    raise
                ended = strict
            for upload in uploads.values():
                _deliver(upload)
        except BaseException:
            if any(file.is_file() for file in folder.rglob("*")):
                log.warning("not uploaded; what was made is kept in %s", folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise
    if ended is not None:
        raise ended


def _urls(options: Any) -> dict[str, str]:
    """Return the outputs that are URLs, by option; other paths must be paths of this machine."""
    shards = {"join", "output"} if getattr(options, "shard", None) else {"join"}  # see flip.cli.remote_shards
    given = {
        f.name: str(v)
        for f in fields(options)
        if f.name not in shards and isinstance(v := getattr(options, f.name), Path) and ":/" in str(v)
    }
    if not given:
        return {}
    from flip.remote import url_of

    urls = {name: url for name, text in given.items() if (url := url_of(text)) is not None}
    writes = {f.name for f in fields(options) if "writes" in f.metadata} | _OUTPUTS
    for name, url in urls.items():
        if name not in writes:
            raise ConfigError(f"{flag(name)} {url} is a URL; pass a path of this machine")
    if urls and getattr(options, "resume", False):
        raise ConfigError("--resume goes on in a folder of this machine; pass -o with its path")
    return urls


def _name(url: str) -> str:
    return url.partition("://")[2].rpartition("/")[2] or "output"


def _deliver(made: _Upload) -> None:
    from flip.cli.uploading import upload

    if is_main_process() and made.here.exists():
        log.info("uploaded %d files to %s", upload(made.here, made.remote), made.remote.url)
