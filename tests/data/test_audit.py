"""Checks of files, pixels, copies, names and captions: what is planted is found, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from flip.data.manifest_file import write_manifest
from flip.data.open import open_dataset
from flip.studies.audit import Audit, audit
from tests.data.photographs import CLASSES, photograph, write_photographs

WREN, GULL, JAY = CLASSES
Change = Callable[[Image.Image], Image.Image]


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def photos(clean: Path, tmp_path: Path) -> Path:
    """A copy of the clean folder, to plant faults in."""
    return Path(shutil.copytree(clean, tmp_path / "photos"))


def found_in(folder: Path, **options: object) -> Audit:
    return audit(open_dataset(folder), **options)


def pairs(found: Audit) -> set[tuple[str, str | None]]:
    return {(finding.kind, finding.path or finding.label) for finding in found.findings}


def only(found: Audit, kind: str, *paths: str) -> None:
    """Check that these photos were found as of this kind, and nothing else was."""
    assert pairs(found) == {(kind, path) for path in paths}


def test_nothing_is_wrong_with_the_clean_folder(clean: Path) -> None:
    found = found_in(clean)
    assert found.findings == ()
    assert len(found.checks) > 15
    assert found.dropped == set()
    assert len(found.clean()) == len(found.dataset)


def darker(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.15)


def blurred(radius: float) -> Change:
    return lambda image: image.resize((480, 360)).filter(ImageFilter.GaussianBlur(radius))


#: Kind → three pictures of it.
PIXELS: dict[str, tuple[Change, Change, Change]] = {
    "flat": (
        lambda image: Image.new("RGB", image.size, (120, 130, 90)),
        lambda image: Image.new("L", image.size, 255),
        lambda image: ImageEnhance.Contrast(image).enhance(0.05),
    ),
    "dark": (
        lambda image: Image.new("RGB", image.size, "black"),
        lambda image: ImageEnhance.Brightness(image).enhance(0.2),
        lambda image: darker(image.convert("L")),
    ),
    "blurred": (blurred(4), blurred(6), blurred(9)),
    "tiny": (
        lambda image: image.resize((40, 30)),
        lambda image: image.resize((64, 64)),
        lambda image: image.resize((300, 20)),
    ),
}


@pytest.mark.parametrize("kind", PIXELS)
def test_photos_that_show_nothing(photos: Path, kind: str) -> None:
    planted = [f"train/{WREN}/a.png", f"train/{GULL}/b.png", f"test/{JAY}/c.png"]
    for seed, (path, change) in enumerate(zip(planted, PIXELS[kind], strict=True), 900):
        change(photograph(seed)).save(photos / path)
    only(found_in(photos), kind, *planted)


def test_huge_photos_beside_the_others(photos: Path) -> None:
    planted = [f"train/{WREN}/a.jpg", f"train/{GULL}/b.jpg", f"test/{JAY}/c.jpg"]
    for seed, (path, size) in enumerate(zip(planted, ((4000, 3000), (3600, 3000), (12000, 900)), strict=True), 900):
        photograph(seed, 400, 300).resize(size, Image.Resampling.NEAREST).save(photos / path)
    only(found_in(photos, checks=("huge",)), "huge", *planted)


def test_files_that_cannot_be_read(photos: Path) -> None:
    (photos / "train" / WREN / "a.jpg").write_text("<html>404</html>")
    (photos / "train" / GULL / "b.jpg").write_bytes(b"")
    (photos / "test" / JAY / "c.png").write_bytes(os.urandom(500))
    only(found_in(photos), "unreadable", f"train/{WREN}/a.jpg", f"train/{GULL}/b.jpg", f"test/{JAY}/c.png")


def test_truncated_files(photos: Path) -> None:
    planted = [f"train/{WREN}/a.jpg", f"train/{GULL}/b.png", f"test/{JAY}/c.webp"]
    for seed, path in enumerate(planted, 900):
        photograph(seed).save(photos / path)
        content = (photos / path).read_bytes()
        (photos / path).write_bytes(content[: len(content) * 2 // 3])
    found = found_in(photos)
    assert {path for _, path in pairs(found)} == set(planted)
    assert {finding.kind for finding in found.findings} <= {"truncated", "unreadable"}
    assert ("truncated", planted[0]) in pairs(found)
    assert ("truncated", planted[1]) in pairs(found)


def test_names_that_end_in_another_format(photos: Path) -> None:
    planted = {f"train/{WREN}/a.jpg": "PNG", f"train/{GULL}/b.png": "JPEG", f"test/{JAY}/c.gif": "WEBP"}
    for seed, (path, kind) in enumerate(planted.items(), 900):
        photograph(seed).save(photos / path, kind)
    found = found_in(photos)
    only(found, "wrong-suffix", *planted)
    assert found.dropped == set()


def test_files_with_the_same_bytes(photos: Path) -> None:
    shutil.copy(photos / "train" / WREN / "0.jpg", photos / "train" / WREN / "copy.jpg")
    shutil.copy(photos / "test" / GULL / "0.jpg", photos / "train" / GULL / "leak.jpg")
    (photos / "test" / GULL / "link.jpg").symlink_to(photos / "train" / GULL / "1.jpg")
    shutil.copy(photos / "train" / JAY / "0.jpg", photos / "train" / WREN / "jay.jpg")
    found = found_in(photos)
    assert pairs(found) == {
        ("copies", f"train/{WREN}/copy.jpg"),
        ("copies-across-splits", f"train/{GULL}/leak.jpg"),
        ("copies-across-splits", f"train/{GULL}/1.jpg"),
        ("copies-across-classes", f"train/{WREN}/jay.jpg"),
        ("copies-across-classes", f"train/{JAY}/0.jpg"),
    }
    # The held-out photo stays, and of two labels neither is believed.
    assert found.dropped == {path for _, path in pairs(found)}


#: Near copies: smaller, cut, mirrored, brighter.
NEAR: tuple[Change, ...] = (
    lambda image: image.resize((100, 75)),
    ImageOps.mirror,
    lambda image: ImageEnhance.Brightness(image).enhance(1.25),
)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("near-copies", f"train/{WREN}"),
        ("near-copies-across-splits", f"test/{WREN}"),
        ("near-copies-across-classes", f"train/{JAY}"),
    ],
)
def test_near_copies(photos: Path, kind: str, place: str) -> None:
    for n, change in enumerate(NEAR):
        with Image.open(photos / "train" / WREN / f"{n}.jpg") as image:
            change(image).save(photos / place / f"near{n}.png")
    originals, copies = [f"train/{WREN}/{n}.jpg" for n in range(3)], [f"{place}/near{n}.png" for n in range(3)]
    found = found_in(photos)
    dropped = {
        "near-copies": copies,
        "near-copies-across-splits": originals,  # the photo that is held out is kept
        "near-copies-across-classes": [*originals, *copies],
    }[kind]
    only(found, kind, *dropped)


def test_noise_and_drawings_are_outliers_among_photos(photos: Path) -> None:
    from tests.studies.test_audit import class_features

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (200, 200, 3), np.uint8)).save(photos / "train" / WREN / "noise.png")
    dataset = open_dataset(photos)
    found = audit(dataset, class_features(dataset), checks=("outliers",))
    only(found, "outliers", f"train/{WREN}/noise.png")
    assert pairs(audit(dataset, checks=("outliers",))) == pairs(found)  # embeddings are not needed for it


def test_classes_with_few_photos(photos: Path) -> None:
    found = found_in(photos, few=7)
    assert pairs(found) == {("few-photos", "Red Wren"), ("few-photos", "Sea Gull"), ("few-photos", "Jay")}
    (photos / "train" / JAY / "5.jpg").unlink()
    found = found_in(photos, few=6)
    assert pairs(found) == {("few-photos", "Jay")}
    assert found.of("few-photos")[0].why == "5 training photos"


@pytest.mark.parametrize("names", [("wren", "Wren"), ("Sea Gull", "Sea-Gull"), ("Blue jay", "Bluejay")])
def test_class_names_that_hardly_differ(tmp_path: Path, names: tuple[str, str]) -> None:
    for seed, name in enumerate((*names, "Owl")):
        for n in range(6):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            photograph(100 * seed + n).save(tmp_path / "photos" / name / f"{n}.jpg")
    found = found_in(tmp_path / "photos", checks=("class-names",))
    assert [(f.label, f.other) for f in found.findings] in ([(names[1], names[0])], [(names[0], names[1])])


def test_missing_captions(photos: Path) -> None:
    rows = [
        {"file_name": f"{name}/{n}.jpg", "text": "a bird"}
        for name in CLASSES
        for n in range(6)
        if (name, n) not in ((WREN, 2), (GULL, 4))
    ]
    (photos / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = audit(open_dataset(photos).select("train"), checks=("captions",))
    only(found, "captions", f"train/{WREN}/2.jpg", f"train/{GULL}/4.jpg")
    rows = [row for row in rows if not row["file_name"].startswith(JAY)]
    (photos / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = audit(open_dataset(photos).select("train"), checks=("captions",))
    assert ("captions", "Jay") in pairs(found)


def test_a_clean_manifest_reads_back_without_what_was_found(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "train" / WREN / "0.jpg", photos / "train" / WREN / "copy.jpg")
    (photos / "train" / GULL / "b.jpg").write_text("no photo")
    found = found_in(photos)
    for name in ("clean.jsonl", "clean.csv"):
        write_manifest(found.clean(), tmp_path / name)
        again = open_dataset(tmp_path / name)
        assert len(again) == len(found.dataset) - 2
        assert again.splits == {"train": 18, "test": 9}
        assert again.classnames == found.dataset.classnames
        assert audit(again).findings == ()
