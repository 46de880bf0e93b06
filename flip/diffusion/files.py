"""Files that a reader sees whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from flip.errors import ConfigError


@contextlib.contextmanager
def written_aside(file: Path, advice: str) -> Iterator[Path]:
    """Yield a hidden path beside a file; it takes the file's place when the block ends well, and is removed otherwise.

    Parameters
    ----------
    file : Path
    advice : str
        What to do when it cannot be written, such as "pass -o with a folder that can".

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    aside = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(file)
    except OSError as e:
        raise ConfigError(f"{file} cannot be written ({e.strerror or e}); {advice}") from e
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def require_own_folder(folder: Path, mark: str, *, overwrite: bool) -> None:
    """See that pictures may go into a folder: it is new, empty, or holds the file that earlier work of its kind left.

    Raises
    ------
    ConfigError
        If it is a file, or holds other work and ``overwrite`` is false.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; pass -o with a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file() and not overwrite:
        raise ConfigError(f"{folder} holds other work; pass -o with another folder, or --overwrite to write beside it")
