"""Uploading what a command made to a URL."""

from __future__ import annotations

from pathlib import Path

from flip.errors import ConfigError, DataError
from flip.remote import Remote, speaking_of

#: Protocols that only read, and those whose paths begin with a bucket that must be there.
_READ_ONLY, _BUCKETS = ("http", "https", "data", "github"), ("s3", "s3a", "gs", "gcs", "az", "abfs")


def require_free(remote: Remote, *, folder: bool, overwrite: bool | None) -> None:
    """Check that something can be uploaded to a URL, as far as that can be known before.

    Parameters
    ----------
    remote : Remote
    folder : bool
        A folder is uploaded, which must be new or empty.
    overwrite : bool or None
        Whether a folder may hold files; None where nobody can ask for that.

    Raises
    ------
    ConfigError
        If the protocol only reads, or the folder holds files.
    DataError
        If the store cannot be asked, or the bucket is not there.
    """
    require_writable(remote)
    with speaking_of(remote.url):
        holds = folder and not overwrite and bool(remote.files.find(remote.path, maxdepth=2))
    if holds:
        advice = "another folder" if overwrite is None else "another folder, or --overwrite"
        raise ConfigError(f"{remote.url} holds files already; pass {advice}")


def require_writable(remote: Remote) -> None:
    """Check that a URL may be written, as far as that can be known before.

    Raises
    ------
    ConfigError
        If the protocol only reads.
    DataError
        If the store cannot be asked, or the bucket is not there.
    """
    protocol, _, path = remote.url.partition("://")
    if protocol in _READ_ONLY:
        raise ConfigError(f"{remote.url} cannot be written: {protocol}:// only reads; pass s3://, gs:// or a path")
    bucket = path.partition("/")[0]
    with speaking_of(remote.url):
        try:
            if protocol in _BUCKETS:
                remote.files.info(bucket)
        except FileNotFoundError as error:
            raise DataError(f"{remote.url} cannot be written: the bucket {bucket} is not there; make it") from error


def upload(source: Path, remote: Remote) -> int:
    """Upload a file, or the files of a folder, the last of them by name last; return how many.

    Raises
    ------
    DataError
        If one cannot be uploaded.
    """
    if source.is_file():
        files = {"": source}
    else:
        files = {f"/{f.relative_to(source).as_posix()}": f for f in sorted(source.rglob("*")) if f.is_file()}
    for below, file in files.items():
        with speaking_of(remote.url + below):
            remote.files.put_file(str(file), remote.path.rstrip("/") + below)
    return len(files)
