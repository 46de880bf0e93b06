from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flip.data.layouts.cub import find_cub, read_cub
from flip.errors import DataError

Cub = Callable[[str], Path]
Write = Callable[[str, str], Path]

RED = ("a red bird", "it is small")


def captions_of(root: Path) -> list[tuple[str, ...]]:
    return [record.captions for record in read_cub(root).records]


def test_the_official_split_labels_boxes_and_names_are_read(cub: Cub) -> None:
    dataset = read_cub(cub("CUB"))
    assert dataset.layout == "cub"
    assert dataset.raw_names == ("001.Red_Wren", "002.Sea_Gull")
    assert dataset.classnames == ("Red Wren", "Sea Gull")
    assert [record.path for record in dataset.records[::2]] == [
        "images/001.Red_Wren/Wren_1.jpg",
        "images/002.Sea_Gull/Gull_1.jpg",
    ]
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert [record.split for record in dataset.records] == ["train", "test", "train", "test"]
    assert dataset.records[0].box == (1.0, 2.0, 3.0, 4.0)
    assert all(dataset.file(record).is_file() for record in dataset.records)


def test_captions_beside_the_folder_of_the_index_files(cub: Cub, write: Write, tmp_path: Path) -> None:
    cub("birds/CUB_200_2011")
    write("birds/text/001.Red_Wren/Wren_1.txt", "a red bird\r\n\n  it is small \n")
    dataset = read_cub(tmp_path / "birds")
    assert dataset.root == tmp_path / "birds"
    assert dataset.records[0].path == "CUB_200_2011/images/001.Red_Wren/Wren_1.jpg"
    assert dataset.file(dataset.records[0]).is_file()
    assert [record.captions for record in dataset.records] == [RED, (), (), ()]
    # The same data, given by the inner folder.
    assert captions_of(tmp_path / "birds" / "CUB_200_2011") == [RED, (), (), ()]


@pytest.mark.parametrize("name", ["text", "text_c10"])
def test_captions_inside(cub: Cub, write: Write, name: str) -> None:
    root = cub("CUB")
    write(f"CUB/{name}/001.Red_Wren/Wren_1.txt", "a red bird\nit is small")
    assert captions_of(root) == [RED, (), (), ()]


def test_captions_are_found_from_the_folder_itself(
    cub: Cub, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(cub("birds/CUB_200_2011"))
    write("birds/text/001.Red_Wren/Wren_1.txt", "a red bird\nit is small")
    assert captions_of(Path())[0] == RED
    monkeypatch.chdir(tmp_path / "birds")
    assert captions_of(Path())[0] == RED


def test_captions_of_a_json_file(cub: Cub, write: Write) -> None:
    root = cub("CUB")
    write("CUB/captions.json", '{"Wren_1.jpg": ["a red bird", "it is small"], "002.Sea_Gull/Gull_1.jpg": "a gull"}')
    assert captions_of(root) == [RED, (), ("a gull",), ()]


def test_a_json_file_that_names_no_photo_is_an_error_inside_and_left_alone_beside(cub: Cub, write: Write) -> None:
    root = cub("all/CUB")
    write("all/captions.json", '{"other.jpg": "of another dataset"}')
    assert captions_of(root) == [()] * 4
    write("all/CUB/captions.json", '{"other.jpg": "what is this"}')
    with pytest.raises(DataError, match=r"captions.json names none of the 4 photos"):
        read_cub(root)


def test_broken_bytes_in_a_caption_do_not_stop_the_reader(cub: Cub) -> None:
    root = cub("CUB")
    file = root / "text" / "001.Red_Wren" / "Wren_1.txt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"a caf\xe9 bird\n")
    assert captions_of(root)[0] == ("a caf\ufffd bird",)


def test_without_boxes_there_are_none(cub: Cub) -> None:
    root = cub("CUB")
    (root / "bounding_boxes.txt").unlink()
    assert {record.box for record in read_cub(root).records} == {None}


def test_without_labels_the_folder_is_the_class(cub: Cub, write: Write) -> None:
    root = cub("CUB")
    (root / "image_class_labels.txt").unlink()
    assert read_cub(root).labels.tolist() == [0, 0, 1, 1]
    write("CUB/classes.txt", "1 001.Red_Wren\n")
    with pytest.raises(DataError, match=r"images.txt:3: class 002.Sea_Gull is not in classes.txt \(1 classes\)"):
        read_cub(root)


def test_ids_may_be_words_and_names_may_have_spaces(cub: Cub, write: Write) -> None:
    root = cub("CUB")
    (root / "images" / "001.Red_Wren").rename(root / "images" / "red wren")
    write("CUB/images.txt", "\ufeffa-1 red wren/Wren_1.jpg\nb-2 red wren/Wren_2.jpg\n")
    write("CUB/classes.txt", "7 Red wren (adult)\n")
    write("CUB/image_class_labels.txt", "a-1 7\nb-2 7\n")
    write("CUB/train_test_split.txt", "a-1 1\nb-2 0\n")
    (root / "bounding_boxes.txt").unlink()
    dataset = read_cub(root)
    assert dataset.classnames == ("Red wren (adult)",)
    assert dataset.records[1].path == "images/red wren/Wren_2.jpg"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "images.txt",
            "1 001.Red_Wren/Absent.jpg\n",
            r"images.txt:1: no file .*001.Red_Wren/Absent.jpg; put the photo",
        ),
        (
            "images.txt",
            "1 001.Red_Wren/Wren_1.jpg\n1 x.jpg\n",
            r"images.txt:2: id 1 was given to '001.Red_Wren/Wren_1.jpg' on line 1",
        ),
        (
            "images.txt",
            "1 001.Red_Wren/Wren_1.jpg\n2 001.Red_Wren/Wren_1.jpg\n",
            r"images.txt:2: .* has an id on line 1 already",
        ),
        ("images.txt", "1\n", r"images.txt:1: '1' is not an id and a value"),
        ("images.txt", "", r"images.txt is empty; it needs a line for each id"),
        (
            "image_class_labels.txt",
            "1 1\n2 1\n3 9\n4 2\n",
            r"image_class_labels.txt:3: class 9 is not in classes.txt \(2 classes\)",
        ),
        (
            "image_class_labels.txt",
            "1 1\n2 1\n3 2\n",
            r"image_class_labels.txt has no line for id 4 \(002.Sea_Gull/Gull_2.jpg, images.txt:4\)",
        ),
        (
            "image_class_labels.txt",
            "1 1\n2 1\n3 2\n4 2\n5 2\n",
            r"image_class_labels.txt:5: image id 5 is not in images.txt",
        ),
        (
            "train_test_split.txt",
            "1 1\n2 0\n3 yes\n4 0\n",
            r"train_test_split.txt:3: 'yes' is not 1 \(train\) or 0 \(test\)",
        ),
        (
            "classes.txt",
            "1 001.Red_Wren\n\n1 002.Sea_Gull\n",
            r"classes.txt:3: id 1 was given to '001.Red_Wren' on line 1",
        ),
        (
            "bounding_boxes.txt",
            "1 1 2 3\n2 0 0 1 1\n3 0 0 1 1\n4 0 0 1 1\n",
            r"bounding_boxes.txt:1: '1 2 3' is not four numbers",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(cub: Cub, write: Write, file: str, text: str, message: str) -> None:
    root = cub("CUB")
    write(f"CUB/{file}", text)
    with pytest.raises(DataError, match=message):
        read_cub(root)


def test_a_file_that_is_not_utf8_is_named(cub: Cub) -> None:
    root = cub("CUB")
    (root / "classes.txt").write_bytes(b"1 caf\xe9\n2 b\n")
    with pytest.raises(DataError, match=r"classes.txt is not UTF-8 \(byte 5\)"):
        read_cub(root)


def test_a_folder_without_the_index_files_is_refused(cub: Cub, tmp_path: Path) -> None:
    root = cub("CUB")
    (root / "classes.txt").unlink()
    assert find_cub(root) is None
    with pytest.raises(
        DataError, match=r"is not CUB-200-2011: it, or its CUB_200_2011, must hold images.txt, classes.txt"
    ):
        read_cub(root)


def test_a_photo_behind_a_link_is_there(cub: Cub, tmp_path: Path) -> None:
    root = cub("CUB")
    shutil.move(root / "images", tmp_path / "photos")
    (root / "images").symlink_to(tmp_path / "photos")
    assert len(read_cub(root)) == 4


def test_the_shared_birds(shared: Path) -> None:
    dataset = read_cub(shared / "data" / "birds")
    assert (len(dataset), len(dataset.classnames)) == (1701, 30)
    assert dataset.splits == {"train": 900, "test": 801}
    assert dataset.classnames[0] == "Black footed Albatross"
    captioned = [record for record in dataset.records if record.captions]
    assert {record.label for record in captioned} == set(range(10))
    assert {len(record.captions) for record in captioned} == {10}
    assert all(record.box is not None for record in dataset.records)
