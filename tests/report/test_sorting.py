"""Photos sorted into folders by label."""

from __future__ import annotations

from pathlib import Path

import pytest

from flip.errors import ConfigError
from flip.report.sorting import copy_to, safe_name
from flip.results import Prediction


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg", "3.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_text(name)
    return tmp_path / "photos"


def files(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_copies_by_label_and_two_photos_of_one_name(photos: Path, tmp_path: Path) -> None:
    rows = [
        Prediction("a/1.jpg", "blue jay", 0.9),
        Prediction("b/1.jpg", "blue jay", 0.9),
        Prediction("b/2.jpg", None, 0.2),
        Prediction("3.jpg", error="is truncated"),
        Prediction("gone.jpg", "blue jay", 0.9),
        Prediction(str(photos / "3.jpg"), "unsure", 0.9),
    ]
    done = copy_to(rows, photos, tmp_path / "out")
    assert files(tmp_path / "out") == {
        "blue jay/1.jpg": "a/1.jpg",
        "blue jay/1 (2).jpg": "b/1.jpg",
        "unsure/2.jpg": "b/2.jpg",
        "unreadable/3.jpg": "3.jpg",
        "unsure (2)/3.jpg": "3.jpg",
    }
    assert (done.placed, done.folders, done.missing) == (5, 4, ("gone.jpg",))
    assert files(photos)["a/1.jpg"] == "a/1.jpg"


def test_links_lead_to_the_photos(photos: Path, tmp_path: Path) -> None:
    copy_to([Prediction("a/1.jpg", "jay", 0.9)], photos, tmp_path / "out", link=True)
    link = tmp_path / "out" / "jay" / "1.jpg"
    assert link.is_symlink()
    assert link.resolve() == (photos / "a/1.jpg").resolve()


def test_a_folder_that_holds_something_is_refused_and_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="--copy-to .* already holds files"):
        copy_to([Prediction("a/1.jpg", "jay", 0.9)], photos, tmp_path / "out")
    assert files(tmp_path / "out") == {"mine.txt": "mine"}


def test_labels_stay_inside_the_folder_and_apart(photos: Path, tmp_path: Path) -> None:
    labels = ["../../up", "Jay", "jay", "/etc/passwd", "", "..", "con", "a\nb", "\u202eabc", "x" * 300, "é", "e\u0301"]
    rows = [Prediction("a/1.jpg", label, 0.9) for label in labels]
    copy_to(rows, photos, tmp_path / "out")
    made = [f.parent for f in (tmp_path / "out").rglob("*.jpg")]
    assert len({str(folder).casefold() for folder in made}) == len(labels)
    assert {folder.parent for folder in made} == {tmp_path / "out"}


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Blue Jay", "Blue Jay"),
        ("a/b\\c:d", "a_b_c_d"),
        (".hidden.", "hidden"),
        ("con", "_con"),
        ("Nul.txt", "_Nul.txt"),
        ("  ", "_"),
        ("\u202eabc", "_abc"),
        ("日" * 90, "日" * 66),
    ],
)
def test_safe_names(label: str, name: str) -> None:
    assert safe_name(label) == name
