"""Contact sheets of named photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flip.errors import ConfigError
from flip.report.sheet import GAP, SIDE, contact_sheet_of
from flip.results import Prediction


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        Image.new("RGB", (300, 200), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    return tmp_path


def row(path: str, label: str | None = "jay", truth: str | None = None, error: str | None = None) -> Prediction:
    return Prediction(path, label, 0.9, ((label or "jay", 0.9),), truth, error)


def test_photos_stand_in_order_and_wrong_ones_are_marked(photos: Path) -> None:
    rows = [row("red.png", "jay", "jay"), row("blue.png", "jay", "crow"), row("gone.png"), row("broken.png")]
    assert contact_sheet_of(rows, photos, photos / "sheet.png", columns=2) == 4
    sheet = np.asarray(Image.open(photos / "sheet.png"))
    step, half = SIDE + GAP, SIDE // 2
    assert tuple(sheet[GAP + half, GAP + half]) == (200, 0, 0)
    assert tuple(sheet[GAP + half, GAP + step + half]) == (0, 0, 200)
    mark = GAP + SIDE + 2
    assert tuple(sheet[mark, GAP + 5]) == (27, 122, 70)
    assert tuple(sheet[mark, GAP + step + 5]) == (179, 55, 44)
    assert sheet.shape[1] == GAP + 2 * step


def test_odd_labels_and_errors_are_drawn(photos: Path) -> None:
    rows = [
        row("red.png", "L" * 5000),
        row("red.png", "two\nlines \u202e\u05d0", "x"),
        row("red.png", None),
        Prediction("broken.png", error="is no image"),
    ]
    for name in ("a.jpg", "a.webp", "a.PNG"):
        assert contact_sheet_of(rows, photos, photos / name) == 4


def test_long_lists_are_cut_and_empty_ones_refused(photos: Path) -> None:
    assert contact_sheet_of([row("red.png")] * 5, photos, photos / "s.png", most=3) == 3
    with pytest.raises(ConfigError, match="nothing to draw"):
        contact_sheet_of([], photos, photos / "s.png")
    with pytest.raises(ConfigError, match="is no picture file"):
        contact_sheet_of([row("red.png")], photos, photos / "s.txt")
    (photos / "notes.png").write_text("my notes")
    with pytest.raises(ConfigError, match="is not replaced"):
        contact_sheet_of([row("red.png")], photos, photos / "notes.png")
