"""Tars for tests: members by name, in their order, and photos to put into them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image


def png(colour: str | tuple[int, int, int] = "olive") -> bytes:
    """Return a small plain photo."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(file: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar of plain files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", errors="surrogateescape") as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def birds(classes: Iterable[str] = ("wren", "gull"), photos: int = 2) -> dict[str, bytes]:
    """Return the members of a tar with photos of each class, each with its class."""
    members = {}
    for c, name in enumerate(classes):
        for i in range(photos):
            members[f"{name}-{i}.png"] = png((40 * c, 20 * i, 90))
            members[f"{name}-{i}.cls"] = name.encode()
    return members
