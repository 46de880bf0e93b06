from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flip.data.files import list_files
from flip.data.images import decode_image
from flip.data.layouts.class_folders import read_class_folders
from flip.data.layouts.images_folder import read_images_folder
from flip.data.layouts.split_folders import read_split_folders
from flip.data.open import open_dataset
from flip.data.photo_folders import has_photos
from flip.data.settings import ReadSettings
from flip.errors import ConfigError, DataError

Draw = Callable[..., Path]
Write = Callable[[str, str], Path]


def test_split_folders_give_splits_classes_and_paths(draw: Draw, tmp_path: Path) -> None:
    for path in ("train/wren/1.jpg", "train/gull/1.png", "valid/wren/2.jpg", "test/gull/3.webp", "test/owl/4.jpg"):
        draw(path)
    dataset = read_split_folders(tmp_path)
    assert dataset.layout == "split-folders"
    assert dataset.classnames == ("gull", "owl", "wren")
    assert sorted((r.path, r.label, r.split) for r in dataset.records) == [
        ("test/gull/3.webp", 0, "test"),
        ("test/owl/4.jpg", 1, "test"),
        ("train/gull/1.png", 0, "train"),
        ("train/wren/1.jpg", 2, "train"),
        ("valid/wren/2.jpg", 2, "val"),
    ]
    with pytest.raises(DataError, match="no training photo for class 'owl'"):
        dataset.require_training_photos()


def test_split_folders_need_train(draw: Draw, tmp_path: Path) -> None:
    draw("test/wren/1.jpg")
    with pytest.raises(DataError, match=r"has no folder train; split folders are train/<class>/\*"):
        read_split_folders(tmp_path)


def test_a_photo_without_class_is_named(draw: Draw, tmp_path: Path) -> None:
    draw("train/wren/1.jpg")
    draw("train/lost.jpg")
    with pytest.raises(
        DataError, match=r"train/lost.jpg has no class; put it in a folder named for its class, or label it"
    ):
        read_split_folders(tmp_path)


def test_metadata_in_a_split_folder_gives_captions_boxes_and_labels(draw: Draw, write: Write, tmp_path: Path) -> None:
    for path in ("train/wren/1.jpg", "train/2.jpg", "test/3.jpg"):
        draw(path)
    write("train/metadata.csv", 'file_name,text,label,x,y,w,h\nwren/1.jpg,"a wren, red",,1,2,3,4\n./2.jpg,,gull,,,,\n')
    write(
        "test/metadata.jsonl", '{"file_name": "3.jpg", "label": "wren", "captions": ["a", "b"], "bbox": [0, 1, 2, 3]}\n'
    )
    dataset = read_split_folders(tmp_path)
    seen = {r.path: (dataset.classnames[r.label], r.split, r.captions, r.box) for r in dataset.records}
    assert seen == {
        "train/wren/1.jpg": ("wren", "train", ("a wren, red",), (1.0, 2.0, 3.0, 4.0)),
        "train/2.jpg": ("gull", "train", (), None),
        "test/3.jpg": ("wren", "test", ("a", "b"), (0.0, 1.0, 2.0, 3.0)),
    }


def test_metadata_in_the_root_names_photos_from_there(draw: Draw, write: Write, tmp_path: Path) -> None:
    draw("train/wren/1.jpg")
    write("metadata.csv", "file_name,caption\ntrain/wren/1.jpg,a wren\n")
    assert read_split_folders(tmp_path).records[0].captions == ("a wren",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file_name,text\nwren/9.jpg,x\n",
            r"metadata.csv:2: no photo 'wren/9.jpg'; paths are relative to the file's folder",
        ),
        (
            "file_name,text\nwren/1.jpg,x\nwren/1.jpg,y\n",
            r"metadata.csv:3: wren/1.jpg is described at .*metadata.csv:2 already",
        ),
        (
            "photo,text\nwren/1.jpg,x\n",
            r"metadata.csv has no column 'file_name'; it has photo, text; rename a column, or the file",
        ),
        (
            "file_name,split\nwren/1.jpg,later\n",
            r"metadata.csv:2: unknown split 'later'; write one of train, training, val",
        ),
        ("file_name,bbox\nwren/1.jpg,1 2 3\n", r"metadata.csv:2: box \['1', '2', '3'\] is not four numbers"),
    ],
)
def test_bad_metadata_is_named_with_its_line(draw: Draw, write: Write, tmp_path: Path, text: str, message: str) -> None:
    draw("wren/1.jpg")
    write("metadata.csv", text)
    with pytest.raises(DataError, match=message):
        read_class_folders(tmp_path)


def test_class_folders_are_split_by_a_hash_that_new_photos_do_not_move(draw: Draw, tmp_path: Path) -> None:
    for i in range(30):
        draw(f"wren/{i}.jpg")
        draw(f"gull/{i}.jpg")
    before = {r.path: r.split for r in read_class_folders(tmp_path, ReadSettings(test_fraction=0.4)).records}
    assert set(before.values()) == {"train", "test"}
    for i in range(30, 40):
        draw(f"wren/{i}.jpg")
    draw("owl/0.jpg")
    after = {r.path: r.split for r in read_class_folders(tmp_path, ReadSettings(test_fraction=0.4)).records}
    # Only a photo that was train for having the smallest hash of its class may lose that place to a new one.
    assert sum(before[path] != after[path] for path in before) == 0
    assert after["owl/0.jpg"] == "train"
    assert {r.split for r in read_class_folders(tmp_path, ReadSettings(test_fraction=0.0)).records} == {"train"}
    read_class_folders(tmp_path, ReadSettings(test_fraction=0.99)).require_training_photos()


def test_a_test_fraction_of_all_is_refused(draw: Draw, tmp_path: Path) -> None:
    draw("wren/1.jpg")
    with pytest.raises(ConfigError, match=r"test.fraction 1.0 is outside \[0, 1\)"):
        read_class_folders(tmp_path, ReadSettings(test_fraction=1.0))


def test_a_split_in_the_metadata_wins_over_the_hash(draw: Draw, write: Write, tmp_path: Path) -> None:
    rows = ["file_name,split"]
    for i in range(8):
        draw(f"wren/{i}.jpg")
        rows.append(f"wren/{i}.jpg,{'validation' if i % 2 else 'Test'}")
    write("metadata.csv", "\n".join(rows))
    assert [r.split for r in read_class_folders(tmp_path).records] == ["test", "val"] * 4


def test_class_folders_leave_out_what_is_no_photo_of_a_class(draw: Draw, write: Write, tmp_path: Path) -> None:
    for path in (
        "wren/1.jpg",
        "wren/deep/er/2.jpg",
        "cover.jpg",
        ".cache/3.jpg",
        "__MACOSX/wren/4.jpg",
        "wren/._1.jpg",
    ):
        draw(path)
    for path in ("wren/Thumbs.db", "wren/notes.txt", "docs/readme.txt"):
        write(path, "text")
    (tmp_path / "empty").mkdir()
    dataset = read_class_folders(tmp_path)
    assert [r.path for r in dataset.records] == ["wren/1.jpg", "wren/deep/er/2.jpg"]
    assert dataset.classnames == ("wren",)


def test_links_are_followed_but_not_in_circles(draw: Draw, tmp_path: Path) -> None:
    draw("elsewhere/owl/1.jpg")
    draw("data/wren/1.jpg")
    data = tmp_path / "data"
    (data / "owl").symlink_to(tmp_path / "elsewhere" / "owl")
    (data / "wren" / "again").symlink_to(data)
    (data / "wren" / "gone.jpg").symlink_to(tmp_path / "absent.jpg")
    assert [r.path for r in read_class_folders(data).records] == [
        "owl/1.jpg",
        "wren/1.jpg",
        "wren/gone.jpg",
    ]


def test_files_are_listed_in_the_same_order_everywhere(draw: Draw, tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/10.jpg", "a.jpg", "B/1.jpg"):
        draw(name)
    assert list(list_files(tmp_path)) == ["B/1.jpg", "a.jpg", "b/10.jpg", "b/2.jpg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_a_row_that_says_so_and_is_not_waited_for(draw: Draw, tmp_path: Path) -> None:
    draw("wren/1.jpg")
    os.mkfifo(tmp_path / "wren" / "2.jpg")
    dataset = read_class_folders(tmp_path)
    assert len(dataset) == 2
    with pytest.raises(DataError, match="FIFO"):
        decode_image(dataset.file(dataset.records[1]))


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wren").mkdir()
    assert not has_photos(tmp_path)
    with pytest.raises(DataError, match="holds no photo that class-folders could read"):
        read_class_folders(tmp_path)


def test_an_images_folder_of_classes(draw: Draw, write: Write, tmp_path: Path) -> None:
    for path in ("images/wren/1.jpg", "images/gull/1.jpg", "images/gull/2.jpg"):
        draw(path)
    captions = {"wren/1.jpg": ["a", "b"], "images/gull/1.jpg": "c", "2": "  "}
    write("captions.json", json.dumps(captions))
    dataset = read_images_folder(tmp_path)
    assert dataset.layout == "images-folder"
    assert {r.path: r.captions for r in dataset.records} == {
        "images/wren/1.jpg": ("a", "b"),
        "images/gull/1.jpg": ("c",),
        "images/gull/2.jpg": (),
    }
    inner = {f"images/{r.path}": r.split for r in read_class_folders(tmp_path / "images").records}
    assert {r.path: r.split for r in dataset.records} == inner


@pytest.mark.parametrize("place", ["captions.json", "images/captions.json"])
def test_flat_images_with_captions_are_one_class(draw: Draw, write: Write, tmp_path: Path, place: str) -> None:
    draw("images/a.jpg")
    draw("images/b.jpg")
    write(place, '{"a.jpg": "first", "b": ["second", ""]}')
    dataset = read_images_folder(tmp_path)
    assert dataset.classnames == ("image",)
    assert [r.captions for r in dataset.records] == [("first",), ("second",)]


def test_flat_images_without_captions_have_no_class(draw: Draw, tmp_path: Path) -> None:
    draw("images/a.jpg")
    with pytest.raises(DataError, match=r"images/a.jpg has no class"):
        read_images_folder(tmp_path)


def test_an_images_folder_needs_images(draw: Draw, tmp_path: Path) -> None:
    draw("wren/a.jpg")
    with pytest.raises(DataError, match=r"has no folder images; an images folder is images/<class>/\*"):
        read_images_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"9.jpg": "x"}', r"captions.json: no photo '9.jpg'; add the file, or take the key out"),
        (
            '{"1.jpg": "x"}',
            r"captions.json: '1.jpg' fits images/gull/1.jpg and images/wren/1.jpg; write <folder>/1.jpg",
        ),
        (
            '{"wren/1.jpg": 3}',
            r"captions.json: captions of 'wren/1.jpg': '3' is neither a string nor a list of strings",
        ),
        ("[1]", r"captions.json holds a JSON list; it must be an object of file name to captions"),
        ("{", r"captions.json is not JSON"),
    ],
)
def test_bad_captions_are_named(draw: Draw, write: Write, tmp_path: Path, text: str, message: str) -> None:
    draw("images/wren/1.jpg")
    draw("images/gull/1.jpg")
    write("captions.json", text)
    with pytest.raises(DataError, match=message):
        read_images_folder(tmp_path)


def test_the_source_of_a_generated_image_is_read_from_parquet_metadata(draw: Draw, tmp_path: Path) -> None:
    draw("train/wren/1.png")
    rows = [{"file_name": "wren/1.png", "source": "train/wren/7.jpg"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train" / "metadata.parquet")
    assert [r.source for r in read_split_folders(tmp_path).records] == ["train/wren/7.jpg"]


def test_links_to_photos_of_the_same_class_are_one_photo(draw: Draw, tmp_path: Path) -> None:
    photo = draw("data/wren/1.jpg")
    draw("data/gull/1.jpg")
    (photo.parent / "2.jpg").symlink_to(photo)
    dataset = open_dataset(tmp_path / "data")
    assert [r.path for r in dataset.records] == ["gull/1.jpg", "wren/1.jpg"]
    assert [str(omission) for omission in dataset.left_out] == [
        "links to photos that are there already (1), the first wren/2.jpg"
    ]


def test_one_photo_in_two_splits_or_classes_by_a_link_is_said(draw: Draw, tmp_path: Path) -> None:
    photo = draw("data/train/wren/1.jpg")
    draw("data/test/gull/3.jpg")
    draw("data/train/gull/3.jpg", "red")
    (tmp_path / "data" / "test" / "wren").symlink_to(photo.parent)
    (tmp_path / "data" / "train" / "gull" / "wren.jpg").symlink_to(photo)
    dataset = open_dataset(tmp_path / "data")
    assert len(dataset) == 5
    assert sorted(dataset.notes) == [
        "photos that are in two classes by a link (1), the first train/gull/wren.jpg and test/wren/1.jpg",
        "photos that are in two splits by a link (1), the first train/wren/1.jpg and test/wren/1.jpg",
    ]


def test_photos_with_something_behind_their_suffix_are_read(draw: Draw, tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        draw(f"wren/{name}")
    (tmp_path / "wren" / "2.jpg").rename(tmp_path / "wren" / "2.jpg?width=500")
    (tmp_path / "wren" / "3.jpg").rename(tmp_path / "wren" / "3")
    (tmp_path / "wren" / "4").write_text("no photo")
    dataset = read_class_folders(tmp_path)
    assert [r.path for r in dataset.records] == ["wren/1.jpg", "wren/2.jpg?width=500", "wren/3"]
    assert [str(o) for o in dataset.left_out] == ["files without a suffix that are no photos (1), the first wren/4"]


def test_class_folders_that_differ_in_the_form_of_accents_are_one_class(draw: Draw, tmp_path: Path) -> None:
    draw("caf\u00e9/1.jpg")
    draw("cafe\u0301/2.jpg")
    dataset = read_class_folders(tmp_path)
    assert dataset.raw_names == ("caf\u00e9",)
    assert all(dataset.file(record).is_file() for record in dataset.records)


def test_captions_find_photos_whose_accents_are_written_otherwise(draw: Draw, write: Write, tmp_path: Path) -> None:
    draw("images/mo\u0308we/u\u0308.jpg")
    write("captions.json", json.dumps({"m\u00f6we/\u00fc.jpg": "a gull"}))
    assert read_images_folder(tmp_path).records[0].captions == ("a gull",)


def test_labels_of_metadata_that_differ_from_the_folder_are_said(draw: Draw, write: Write, tmp_path: Path) -> None:
    for path in ("wren/1.jpg", "wren/2.jpg", "gull/3.jpg"):
        draw(path)
    write("metadata.csv", "file_name,label\nwren/1.jpg,wren\nwren/2.jpg,gull\ngull/3.jpg,gull\n")
    dataset = read_class_folders(tmp_path)
    assert dataset.labels.tolist() == [0, 1, 0]
    assert dataset.notes == (
        "labels of the metadata that differ from the photo's folder (1), the first wren/2.jpg: gull",
    )
