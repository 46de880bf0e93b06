"""Folders of odd shapes: each is refused, or read with a note; none is scored silently as something it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flip.data.open import open_dataset
from flip.errors import DataError

Draw = Callable[..., Path]
Write = Callable[[str, str], Path]

A = ["wren/1.jpg", "wren/2.jpg", "gull/1.jpg", "gull/2.jpg"]


def below(*folders: str) -> list[str]:
    return [f"{folder}/{path}" for folder in folders for path in A]


#: What lies in the folder, and the error that refuses it.
REFUSED = [
    # Photos that no folder or file gives a class.
    (["1.jpg", "2.jpg"], "holds 2 photos and no class folders"),
    (["images/1.jpg", "images/2.jpg"], "images/, which is no class by name"),
    (["jpg/1.jpg"], "jpg/, which is no class by name"),
    (["JPEGImages/1.jpg", "Annotations/1.xml"], "JPEGImages/, which is no class by name"),
    (["images/1.jpg", "annotations/trimaps/1.png"], "annotations/ and images/, which are no classes by name"),
    (["images/1.jpg", "masks/1.png"], "images/ and masks/, which are no classes"),
    (["photos/1.jpg", "depth/1.png"], "depth/ and photos/, which are no classes"),
    (["data/1.jpg"], "data/, which is no class by name"),
    (["train/1.jpg", "test/2.jpg"], "has no class"),
    (["train2017/1.jpg", "val2017/2.jpg", "annotations/instances.json"], "train2017/1.jpg has no class"),
    (["train/1.jpg", "test/2.jpg", "train.csv"], "has no class.*; train.csv may be a manifest: pass it as --data"),
    (["cars_train/1.jpg", "cars_test/1.jpg"], "cars_test/1.jpg has no class"),
    (["images/train/1.jpg", "images/val/1.jpg", "labels/train/1.txt"], "images/train/1.jpg has no class"),
    (["test/1.jpg", "test/2.jpg"], "test/, which is no class by name"),
    (["eval/1.jpg", "test/2.jpg"], "eval/ and test/, which are no classes by name"),
    (["train/wren/1.jpg", "train/lost.jpg", "test/wren/2.jpg"], "train/lost.jpg has no class"),
    (["train/images/1.jpg", "train/masks/1.png", "test/images/2.jpg"], "images/ and masks/, which are no classes"),
    (["images/images/1.jpg", "images/masks/1.png"], "images/ and masks/, which are no classes by name"),
    (["Images/1.jpg", "Images/2.jpg"], "Images/, which is no class by name"),
    (["birds.zip"], "no layout fits"),
    # A dataset one folder further down.
    (below("birds"), "would be a single class, 'birds'"),
    (below("birds/train", "birds/test"), "would be a single class, 'birds'"),
    (below("test"), "would be a single class, 'test'"),
    # Splits under words that flip does not know.
    (below("seen", "unseen"), "hold the same folders .gull, wren., so they look like splits"),
    (below("fold_a", "fold_b"), "hold the same folders"),
    (below("part1", "part2"), "hold the same folders"),
    (below("query", "gallery"), "hold the same folders"),
    (below("train", "query", "gallery"), "hold the same folders"),
    (["train/wren/1.jpg", "train/gull/1.jpg", "query/wren/1.jpg", "gallery/wren/2.jpg"], "hold the same folders"),
    (below("seen_train", "seen_val", "unseen_test"), "are named as splits"),
    (below("train_real", "train_synthetic", "test"), "hold the same folders"),
    (["train/side/1.jpg", "bus/side/1.jpg"], "hold the same folders"),
    (["bounding_box_train/1.jpg", "bounding_box_test/2.jpg", "query/3.jpg"], "are named as splits"),
    (["a_val/1.jpg", "a_test/2.jpg", "b/1.jpg", "c/1.jpg"], "are named as splits"),
    (["cars_train/cars_train/1.jpg", "cars_test/cars_test/1.jpg"], "cars_test/1.jpg has no class"),
    (["train/train/cat.1.jpg", "test/test/1.jpg"], "test/1.jpg has no class"),
    # Archives of which a part is missing.
    (["jpg/image_00001.jpg", "imagelabels.mat"], "imagelabels.mat is there as in Flowers-102, but setid.mat is not"),
    (["images/a_1.jpg", "annotations/trimaps/a_1.png", "annotations/test.txt"], "trainval.txt is not there"),
    (["images/1.jpg", "images_variant_test.txt"], "images_variant_train.txt is not there"),
    (["cars_train/1.jpg", "cars_test/1.jpg", "devkit/cars_meta.mat"], "cars_train_annos.mat is not there"),
    # No photos.
    (["notes/a.txt"], "no layout fits"),
    (["wren/1.nef", "gull/1.nef"], "no layout fits"),
    (["a.tar", "b.tar"], "no tar that can be read"),
    ([".hidden/1.jpg"], "hidden files only"),
]

#: What lies in the folder, how it is read, and what is said of it.
NOTED = [
    (
        ["Aves/2820/1.jpg", "Aves/2821/1.jpg", "Insecta/17/1.jpg"],
        "class-folders: 3 photos, 2 classes, train 2, test 1",
        "the class is the first folder, Aves",
    ),
    (
        ["1/1.jpg", "2/2.jpg", "10/1.jpg"],
        "class-folders: 3 photos, 3 classes, train 3",
        "are named by numbers, such as 1",
    ),
    (
        ["train/wren/1.jpg", "train/gull/1.jpg", "test/wren/2.jpg", "test/owl/2.jpg"],
        "split-folders: 4 photos, 3 classes, train 2, test 2",
        "1 class has no training photo, such as 'owl'",
    ),
    (
        [*below("train", "test"), "train/images/1.jpg"],
        "split-folders: 9 photos, 3 classes, train 5, test 4",
        "the folder images/ is read as a class",
    ),
    ([*A, "birds.zip"], "class-folders: 4 photos, 2 classes, train 3, test 1", "files with the suffix .zip (archives"),
    (below("train", "eval"), "split-folders: 8 photos, 2 classes, train 4, test 4", "read eval as test"),
    (below("train", "eval", "test"), "split-folders: 12 photos, 2 classes, train 4, val 4, test 4", "read eval as val"),
    (below("train", "holdout"), "split-folders: 8 photos, 2 classes, train 4, test 4", "read holdout as test"),
    (
        [*below("train", "test"), "unlabeled/1.jpg"],
        "split-folders: 8 photos, 2 classes, train 4, test 4",
        "photos of unlabeled/, which have no labels (1), the first unlabeled/1.jpg",
    ),
    (
        [*below("train"), "test/1.jpg", "test/2.jpg"],
        "split-folders: 4 photos, 2 classes, train 4",
        "test photos without classes (2), the first test/1.jpg",
    ),
    (
        [*below("train", "test"), "extras/1.jpg"],
        "split-folders: 8 photos, 2 classes, train 4, test 4",
        "photos in folders that are no split (1), the first extras/1.jpg",
    ),
    (
        ["wren/train/1.jpg", "wren/test/2.jpg", "gull/train/1.jpg", "gull/test/2.jpg"],
        "class-folders: 4 photos, 2 classes, train 2, test 2",
        "the folders test, train in the class folders are read as splits",
    ),
    (
        ["Turdus/merula/1.jpg", "Turdus/pilaris/1.jpg", "Larus/canus/1.jpg"],
        "class-folders: 3 photos, 2 classes, train 2, test 1",
        "--class-level 2 takes the second",
    ),
    (
        ["wren/male/1.jpg", "wren/female/1.jpg", "gull/male/1.jpg", "gull/female/1.jpg", "owl/male/1.jpg"],
        "class-folders: 5 photos, 3 classes, train 4, test 1",
        "the class is the first folder",
    ),
    (
        [*A, "images/1.jpg"],
        "class-folders: 5 photos, 3 classes, train 4, test 1",
        "the folder images/ is read as a class",
    ),
    (
        ["train/1.jpg", "bus/1.jpg"],
        "class-folders: 2 photos, 2 classes, train 2",
        "the folder train/ is read as a class",
    ),
    (
        ["train/2019/1.jpg", "bus/2019/1.jpg", "tram/2019/1.jpg"],
        "class-folders: 3 photos, 3 classes, train 3",
        "the folder train/ is read as a class",
    ),
    (["wren/1.jpg", "wren/2.jpg"], "class-folders: 2 photos, 1 class, train 1, test 1", "there is one class, 'wren'"),
    (
        [*A, "owl/1.nef"],
        "class-folders: 4 photos, 2 classes, train 3, test 1",
        "files with the suffix .nef (camera raw",
    ),
    (
        [*A, "owl/1.CR2", "owl/2.CR2"],
        "class-folders: 4 photos, 2 classes, train 3, test 1",
        "files with the suffix .cr2 (camera raw: convert them to JPEG or PNG) (2)",
    ),
    ([*A, "wren/3.jxl"], "class-folders: 4 photos, 2 classes, train 3, test 1", "files with the suffix .jxl (JPEG XL"),
    (
        [*A, "wren/clip.mp4"],
        "class-folders: 4 photos, 2 classes, train 3, test 1",
        "files with the suffix .mp4 (videos",
    ),
    ([*A, "owl/"], "class-folders: 4 photos, 2 classes, train 3, test 1", "folders without photos (1), the first owl/"),
    (
        [*A, "cover.jpg"],
        "class-folders: 4 photos, 2 classes, train 3, test 1",
        "photos beside the class folders (1), the first cover.jpg",
    ),
    (
        ["train/n01/images/1.JPEG", "train/n02/images/2.JPEG", "val/images/1.JPEG", "test/images/1.JPEG"],
        "split-folders: 2 photos, 2 classes, train 2",
        "val photos without classes (1), the first val/images/1.JPEG",
    ),
    (
        ["train/1/a.jpg", "train/2/a.jpg", "test/imgs/a.jpg"],
        "split-folders: 2 photos, 2 classes, train 2",
        "test photos without classes (1), the first test/imgs/a.jpg",
    ),
    (
        ["images/banded/1.jpg", "images/dotty/1.jpg", "labels/train1.txt", "labels/test1.txt"],
        "images-folder: 2 photos, 2 classes, train 2",
        "labels/train1.txt is there and is not read",
    ),
    (
        [*A, "split_zhou_Birds.json"],
        "class-folders: 4 photos, 2 classes, train 3, test 1",
        "split_zhou_Birds.json is there and is not read",
    ),
    (
        [*A, "train.txt", "test.txt"],
        "class-folders: 4 photos, 2 classes, train 3, test 1",
        "train.txt is there and is not read",
    ),
    (
        ["n01440764/1.JPEG", "n01443537/2.JPEG"],
        "class-folders: 2 photos, 2 classes, train 2",
        "named by WordNet ids, such as n01440764",
    ),
    (
        ["Red Wren/1.jpg", "red-wren/1.jpg"],
        "class-folders: 2 photos, 2 classes, train 2",
        "differ by case, spaces or hyphens only",
    ),
    (
        [f"images/{path}" for path in A] + ["images.txt", "train_test_split.txt"],
        "images-folder: 4 photos, 2 classes, train 3, test 1",
        "its official split is not used: images.txt is there as in CUB-200-2011, but classes.txt is not there",
    ),
]


def fill(files: list[str], draw: Draw, write: Write, folder: Path) -> None:
    for file in files:
        if file.endswith("/"):
            (folder / "data" / file).mkdir(parents=True)
        elif file.lower().endswith((".jpg", ".png", ".jpeg")):
            draw(f"data/{file}")
        else:
            write(f"data/{file}", "x\n")


@pytest.mark.parametrize(("files", "message"), REFUSED, ids=[" ".join(files)[:60] for files, _ in REFUSED])
def test_refused(files: list[str], message: str, draw: Draw, write: Write, tmp_path: Path) -> None:
    fill(files, draw, write, tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(tmp_path / "data")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("files", "line", "said"), NOTED, ids=[" ".join(files)[:60] for files, _, _ in NOTED])
def test_read_with_a_note(files: list[str], line: str, said: str, draw: Draw, write: Write, tmp_path: Path) -> None:
    fill(files, draw, write, tmp_path)
    dataset = open_dataset(tmp_path / "data")
    assert str(dataset) == line
    assert any(said in text for text in (*dataset.notes, *map(str, dataset.left_out)))


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (A, "class-folders: 4 photos, 2 classes, train 3, test 1"),
        (below("train", "test"), "split-folders: 8 photos, 2 classes, train 4, test 4"),
        (below("Training", "Validation"), "split-folders: 8 photos, 2 classes, train 4, val 4"),
        (below("birds_train", "birds_test"), "split-folders: 8 photos, 2 classes, train 4, test 4"),
        (below("train2017", "val2017"), "split-folders: 8 photos, 2 classes, train 4, val 4"),
        (below("training_set", "test_set"), "split-folders: 8 photos, 2 classes, train 4, test 4"),
        (below("images/train", "images/test"), "split-folders: 8 photos, 2 classes, train 4, test 4"),
        (
            below("training_set/training_set", "test_set/test_set"),
            "split-folders: 8 photos, 2 classes, train 4, test 4",
        ),
        (below("val", "test"), "split-folders: 8 photos, 2 classes, val 4, test 4"),
        (["wren/2019/1.jpg", "wren/2020/2.jpg", "gull/2019/1.jpg"], "class-folders: 3 photos, 2 classes, train 3"),
        (["steam_train/1.jpg", "model_train/2.jpg", "bus/3.jpg"], "class-folders: 3 photos, 3 classes, train 3"),
        (below("trainset", "testset"), "split-folders: 8 photos, 2 classes, train 4, test 4"),
        (["steam_train/1.jpg", "model_train/2.jpg"], "class-folders: 2 photos, 2 classes, train 2"),
    ],
)
def test_usual_shapes_need_no_word(files: list[str], line: str, draw: Draw, write: Write, tmp_path: Path) -> None:
    fill(files, draw, write, tmp_path)
    dataset = open_dataset(tmp_path / "data")
    assert str(dataset) == line
    assert (dataset.notes, dataset.left_out) == ((), ())


def test_there_are_forty() -> None:
    assert len(REFUSED) + len(NOTED) >= 40
