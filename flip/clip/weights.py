"""The hash of a weights file, remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path

from flip.errors import ConfigError
from flip.files import write_json
from flip.reading import open_plain, read_json

_IS_SHA256 = re.compile("[0-9a-f]{64}")


def weights_hash(file: Path, cache: Path | None) -> str:
    """Return the sha256 of a file, 64 hex digits, read again only when its size or time of change differs.

    Parameters
    ----------
    file : Path
    cache : Path or None
        Folder in which the hash is remembered; None, or one that cannot be written, hashes each time.
    """
    file = file.resolve()
    stat = file.stat()
    if cache is None:
        return _sha256(file)
    key = hashlib.sha256(os.fsencode(file)).hexdigest()[:16]
    memory = cache / "weights" / f"{key}.json"
    seen = [str(file), stat.st_size, stat.st_mtime_ns]
    try:
        remembered = read_json(memory)
        if remembered["file"] == seen and _IS_SHA256.fullmatch(remembered["sha256"]):
            return str(remembered["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = _sha256(file)
    with contextlib.suppress(ConfigError):
        write_json(memory, {"file": seen, "sha256": digest})
    return digest


def _sha256(file: Path) -> str:
    with open_plain(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
