"""Facts of a model, remembered beside the size and time of change of its files."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from flip.clip.encoder import ModelFacts
from flip.errors import ConfigError
from flip.files import write_json
from flip.reading import read_json

#: Raised when another version of flip would find other facts of the same files.
FORMAT = 1

_KINDS: dict[str, type | tuple[type, ...]] = {
    "fingerprint": str,
    "dim": int,
    "logit_scale": (int, float),
    "context_length": int,
    "config": dict,
}


def remember(cache: Path, key: str, facts: ModelFacts, files: Iterable[Path]) -> None:
    """Write what is known of a model; a cache that cannot be written remembers nothing.

    Parameters
    ----------
    cache : Path
    key : str
        What names the model: a folder, or the name in a registry.
    facts : ModelFacts
    files : iterable of Path
        The facts hold for as long as size and time of change of these stay.
    """
    content = {"versions": _versions(), "key": key, "files": [_state(file) for file in files], "facts": asdict(facts)}
    with contextlib.suppress(ConfigError):
        write_json(_file(cache, key), content)


def recall(cache: Path, key: str, files: Iterable[Path] | None = None) -> ModelFacts | None:
    """Return what is known of a model, or None when it is unknown or a file changed; imports no library.

    Parameters
    ----------
    cache : Path
    key : str
    files : iterable of Path, optional
        The files that make the model today, where that is known without asking a registry.
    """
    try:
        content = read_json(_file(cache, key))
        if content["versions"] != _versions() or content["key"] != key:
            return None
        if files is not None and [entry[0] for entry in content["files"]] != [_absolute(file) for file in files]:
            return None
        if not content["files"] or any(_state(Path(entry[0])) != entry for entry in content["files"]):
            return None
        facts = ModelFacts(**content["facts"])
        return facts if all(isinstance(getattr(facts, name), kind) for name, kind in _KINDS.items()) else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def forget(cache: Path, key: str) -> None:
    """Forget a model."""
    with contextlib.suppress(OSError):
        _file(cache, key).unlink()


def _file(cache: Path, key: str) -> Path:
    return cache / "models" / f"{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.json"


def _state(file: Path) -> list[object]:
    stat = file.stat()
    return [_absolute(file), stat.st_size, stat.st_mtime_ns]


def _absolute(file: Path) -> str:
    return os.path.abspath(file)  # noqa: PTH100 - links stay, since what they name may change


def _versions() -> dict[str, object]:
    try:
        open_clip = importlib.metadata.version("open_clip_torch")
    except importlib.metadata.PackageNotFoundError:
        open_clip = ""
    return {"format": FORMAT, "open_clip": open_clip}
