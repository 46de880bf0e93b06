"""Reading what others wrote: plain files only, so that nothing is waited for, and JSON without surprises.

What the disk does not have is looked for among :mod:`flip.mounts`: members of tars, and files at URLs.
"""

from __future__ import annotations

import errno
import io
import json
import os
import select
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flip.mounts import FileState, MountedFile, Place, mounted

#: Seconds to wait for whoever writes into a FIFO.
PATIENCE = 5.0

#: Bytes of a mounted file that are read together.
_BLOCK = 4 << 20

#: Errors of the disk for a path that a mount may serve: none has the name, or what is above it is a file.
_NOT_HERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})

#: Largest pickle in a checkpoint. That of Stable Diffusion XL with the state of its optimiser has less than 2 MiB.
MOST_PICKLE_BYTES = 4 << 20

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


def open_plain(file: str | Path) -> io.BufferedReader:
    """Open a plain file for reading; nothing else is waited for.

    Raises
    ------
    OSError
        If it cannot be opened, or is a folder, a FIFO, a socket or a device; ``strerror`` says what.
    """
    try:
        descriptor = _open(file)
    except OSError as error:
        if error.errno in _NOT_HERE and mounted(file) is not None:
            return io.BufferedReader(MountedFile(file), _BLOCK)
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is {_kind(mode)}, not a plain file", str(file))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def state_of(file: str | Path) -> FileState:
    """Return size and times of a plain file, wherever it lies.

    Raises
    ------
    OSError
        If it is not there; with ``errno.EINVAL`` if it is a folder, a FIFO, a socket or a device.
    """
    try:
        found = os.stat(file)  # noqa: PTH116 - a hundred thousand Path objects cost seconds
    except ValueError as error:
        raise FileNotFoundError(errno.ENOENT, f"no name of a file ({error})", str(file)) from error
    except OSError as error:
        served = mounted(file) if error.errno in _NOT_HERE else None
        if served is None:
            raise
        files, below = served
        return files.state(below)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"it is {_kind(found.st_mode)}, not a plain file", str(file))
    path = os.path.abspath(file)  # noqa: PTH100
    return FileState(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_dev, found.st_ino)


def place_of(file: str | Path) -> Place:
    """Return the place of a file's bytes, as a process can open it that knows none of the mounts.

    Raises
    ------
    OSError
        If it is not there.
    """
    state = state_of(file)
    served = None if os.path.isfile(file) else mounted(file)  # noqa: PTH113
    return Place(state.name, 0, state.size) if served is None else served[0].place(served[1])


def is_file(file: str | Path) -> bool:
    """Return whether a path is a plain file, on the disk or in a mount."""
    try:
        state_of(file)
    except OSError:
        return False
    return True


def read_range(file: str | Path, start: int, size: int) -> bytes:
    """Return some bytes of a plain file, fewer only where it ends.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with open_plain(file) as stream:
        if isinstance(stream.raw, MountedFile):
            return stream.raw.at(start, size)
        return os.pread(stream.fileno(), size, start)


def require_plain(file: str | Path) -> None:
    """Raise an OSError unless a file is a plain one, before a library opens it that would wait for a FIFO."""
    open_plain(file).close()


def require_stored(file: str | Path) -> None:
    """Raise a ValueError if a zip of weights has a compressed member or a huge pickle, which may take any time.

    Raises
    ------
    OSError
        If it cannot be read, or is no zip.
    """
    import struct
    import zipfile

    try:
        with open_plain(file) as stream, zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error) as error:
        raise OSError(errno.EINVAL, f"no zip that can be read: {error}", str(file)) from error
    # TorchScript keeps the texts of its code, and nothing else, compressed; they are never read.
    packed = (m for m in members if m.compress_type != zipfile.ZIP_STORED)
    squeezed = next((m for m in packed if "/code/" not in m.filename or m.filename.endswith(".pkl")), None)
    if squeezed is not None:
        raise ValueError(f"{squeezed.filename[:80]!r} in it is compressed, which no checkpoint is")
    huge = next((m for m in members if m.filename.endswith(".pkl") and m.file_size > MOST_PICKLE_BYTES), None)
    if huge is not None:
        raise ValueError(
            f"its {huge.filename.rpartition('/')[2][:80]} has {huge.file_size >> 20} MiB, and that of a model less "
            f"than {MOST_PICKLE_BYTES >> 20}"
        )


def read_bytes(file: str | Path) -> bytes:
    """Return the bytes of a plain file, or of a FIFO that somebody is writing to, as in ``--classes <(ls train)``.

    Raises
    ------
    OSError
        If it cannot be opened, is neither of them, or nothing comes out of the FIFO.
    """
    descriptor = _open(file)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return _read_fifo(descriptor, file)
    finally:
        os.close(descriptor)
    with open_plain(file) as stream:
        return stream.read()


def what_is(file: str | Path) -> str:
    """Return the kind of a special file, such as "a FIFO" or "a link to itself"; "" for files and folders."""
    try:
        mode = Path(file).stat().st_mode
    except OSError as error:
        return "a link to itself" if error.errno == errno.ELOOP else ""
    except ValueError:
        return ""
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else _kind(mode)


def parse_json(text: str | bytes, *, keys_once: bool = True) -> Any:
    """Return the value of a JSON text.

    Parameters
    ----------
    text : str or bytes
    keys_once : bool
        Refuse an object that has a key twice, of which a reader would take either.

    Raises
    ------
    ValueError
        If it is none, or is nested too deep to be read.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once if keys_once else None)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(file: str | Path, *, keys_once: bool = True) -> Any:
    """Return the value of a JSON file; see :func:`parse_json`.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is no JSON.
    """
    return parse_json(read_bytes(file).decode("utf-8-sig"), keys_once=keys_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return made


def _open(file: str | Path) -> int:
    try:
        # Without O_NONBLOCK opening a FIFO would wait for a writer.
        return os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"no name of a file ({error})", str(file)) from error


def _kind(mode: int) -> str:
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a special file")


def _read_fifo(descriptor: int, file: str | Path) -> bytes:
    poll, chunks = select.poll(), list[bytes]()
    poll.register(descriptor, select.POLLIN)
    while True:
        if not poll.poll(PATIENCE * 1000):
            raise OSError(errno.EAGAIN, "it is a FIFO, and nothing comes out of it", str(file))
        chunk = os.read(descriptor, 1 << 20)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
