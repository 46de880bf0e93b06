"""Small folders of photos in every layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Write a small plain photo at a path below the test's folder, and return it."""

    def at(path: str, colour: str = "olive") -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), colour).save(file)
        return file

    return at


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a text file at a path below the test's folder, and return it."""

    def at(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return at


@pytest.fixture
def cub(draw: Draw, write: Callable[[str, str], Path]) -> Callable[[str], Path]:
    """Write a CUB of four photos and two classes below a folder, without captions."""

    def at(folder: str) -> Path:
        photos = [
            "001.Red_Wren/Wren_1.jpg",
            "001.Red_Wren/Wren_2.jpg",
            "002.Sea_Gull/Gull_1.jpg",
            "002.Sea_Gull/Gull_2.jpg",
        ]
        for photo in photos:
            draw(f"{folder}/images/{photo}")
        write(f"{folder}/images.txt", "".join(f"{i} {photo}\n" for i, photo in enumerate(photos, 1)))
        write(f"{folder}/classes.txt", "1 001.Red_Wren\n2 002.Sea_Gull\n")
        write(f"{folder}/image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n")
        write(f"{folder}/train_test_split.txt", "1 1\n2 0\n3 1\n4 0\n")
        return write(f"{folder}/bounding_boxes.txt", "1 1.0 2.0 3.0 4.0\n2 0 0 8 6\n3 0 0 8 6\n4 0 0 8 6\n").parent

    return at
