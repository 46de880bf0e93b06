"""Unpacking tar archives that a stranger made: nothing is written outside the folder."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from flip.errors import DataError

_BLOCK = 1 << 20


def unpack(archive: Path, folder: Path, top: str) -> None:
    """Unpack a tar archive: the files below its folder ``top``, and those beside it, into a folder that is empty.

    Nothing is written outside the folder: members with absolute paths, ``..`` or drives, links and devices are refused
    before the first file is written, whatever they are called. No owner, mode or time is taken over.

    Raises
    ------
    DataError
        If the archive is none, is cut off, or has such a member.
    OSError
        If the folder cannot be written.
    """
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                _require_harmless(archive, member)
            for member in members:
                target = folder / _below(member.name, top)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}); delete it and fetch it again") from error


def _require_harmless(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.name
    drive = len(member.name) > 1 and member.name[1] == ":"
    if outside or drive or not (member.isfile() or member.isdir()):
        what = "leads outside its folder" if outside or drive else "is a link or a device"
        raise DataError(f"{archive} is not unpacked: its member {member.name!r} {what}")


def _below(name: str, top: str) -> PurePosixPath:
    path = PurePosixPath(name)
    return PurePosixPath(*path.parts[1:]) if path.parts[:1] == (top,) else path
