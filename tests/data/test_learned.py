"""Photos are known again by their content, wherever they lie."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flip.data.learned import LEARNED_FILE, count_learned, read_learned, require_unlearned, write_learned
from flip.errors import DataError


@pytest.fixture
def photos(write: Callable[[str, str], Path]) -> list[str]:
    return [str(write(f"photos/{n}.jpg", f"photo {n}")) for n in range(20)]


def test_copies_links_and_moved_files_are_known_again(photos: list[str], tmp_path: Path) -> None:
    write_learned(tmp_path, photos[:3])
    learned = read_learned(tmp_path)
    copy = shutil.copy(photos[0], tmp_path / "copy.jpg")
    link = tmp_path / "link.jpg"
    link.symlink_to(photos[1])
    moved = shutil.move(photos[2], tmp_path / "moved.jpg")
    assert count_learned(learned, [copy, str(link), moved]) == 3
    assert count_learned(learned, photos[3:]) == 0
    assert count_learned(learned, [str(tmp_path / "absent.jpg")]) == 0


def test_what_a_model_began_from_is_kept(photos: list[str], tmp_path: Path) -> None:
    write_learned(tmp_path, photos[:3])
    (tmp_path / "next").mkdir()
    write_learned(tmp_path / "next", [*photos[2:5], str(tmp_path / "absent.jpg")], read_learned(tmp_path))
    assert count_learned(read_learned(tmp_path / "next"), photos) == 5


def test_a_folder_without_a_record_learned_nothing(tmp_path: Path, photos: list[str]) -> None:
    assert read_learned(tmp_path) == frozenset()
    assert count_learned(read_learned(tmp_path), photos) == 0
    (tmp_path / LEARNED_FILE).write_text("")
    assert count_learned(read_learned(tmp_path), photos) == 0


def test_one_in_ten_is_said_and_more_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    require_unlearned("the model m", 0, 20, "test")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        require_unlearned("the model m", 2, 20, "test")
    assert "trained or chosen on 2 of the 20 photos" in caplog.text
    with pytest.raises(DataError, match="3 of the 20 photos of split 'test'"):
        require_unlearned("the model m", 3, 20, "test")
