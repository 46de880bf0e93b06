"""Tars of WebDataset: what is read, what is left out and said, and what is refused with one line."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from flip.data.dataset import Dataset
from flip.data.images import decode_photo
from flip.data.open import open_dataset
from flip.data.tars import TarMount
from flip.errors import DataError, MissingDependencyError
from flip.mounts import mount
from tests.data.tar_files import birds, png, write_tar

pytest.importorskip("webdataset")


def read(data: Path | str) -> Dataset:
    dataset = open_dataset(data)
    assert dataset.layout == "webdataset"
    return dataset


def paths(dataset: Dataset) -> list[str]:
    return [record.path for record in dataset.records]


def labels(dataset: Dataset) -> list[str]:
    return [dataset.raw_names[record.label] for record in dataset.records]


def left_out(dataset: Dataset) -> dict[str, int]:
    return {omission.kind: omission.count for omission in dataset.left_out}


def test_a_tar_is_a_dataset_whose_rows_are_named_by_tar_and_key(tmp_path):
    tar = write_tar(tmp_path / "birds.tar", birds())
    dataset = read(tar)
    assert paths(dataset) == ["birds.tar/wren-0", "birds.tar/wren-1", "birds.tar/gull-0", "birds.tar/gull-1"]
    assert labels(dataset) == ["wren", "wren", "gull", "gull"]
    assert decode_photo(dataset.photo(dataset.records[3])).getpixel((0, 0)) == (40, 20, 90)


def test_a_folder_of_tars_has_the_splits_of_their_names(tmp_path):
    for split in ("train", "val", "test"):
        write_tar(tmp_path / f"birds-{split}-0000.tar", birds())
    assert read(tmp_path).splits == {"train": 4, "val": 4, "test": 4}


def test_a_folder_above_the_tars_says_the_split(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", birds())
    write_tar(tmp_path / "test" / "0.tar", birds())
    dataset = read(tmp_path)
    assert dataset.splits == {"train": 4, "test": 4}
    assert paths(dataset)[0] == "test/0.tar/wren-0"


def test_a_split_in_json_goes_before_that_of_the_tar_and_the_hash_decides_without_any(tmp_path):
    members = birds() | {"wren-0.json": b'{"split": "val"}'}
    assert read(write_tar(tmp_path / "train-0.tar", members)).splits == {"train": 3, "val": 1}
    alone = read(write_tar(tmp_path / "0.tar", birds(photos=20)))
    assert set(alone.splits) == {"train", "test"}


@pytest.mark.parametrize(
    "pattern",
    ["birds-{0000..0002}.tar", "birds-{0000,0001,0002}.tar", "{birds,birds}-{0000..0002}.tar"],
)
def test_a_pattern_stands_for_several_tars(tmp_path, pattern):
    for i in range(4):
        write_tar(tmp_path / f"birds-{i:04d}.tar", birds())
    assert {path.partition("/")[0] for path in paths(read(tmp_path / pattern))} == {
        f"birds-{i:04d}.tar" for i in range(3)
    }


def test_a_pattern_over_folders_is_relative_to_the_folder_above_them(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", birds())
    write_tar(tmp_path / "test" / "0.tar", birds())
    dataset = read(tmp_path / "{train,test}" / "0.tar")
    assert dataset.root == tmp_path
    assert paths(dataset)[0] == "train/0.tar/wren-0"


def test_captions_labels_and_boxes_come_from_json(tmp_path):
    row = {"label": "wren", "caption": "a small bird", "bbox": [1, 2, 3, 4], "url": "https://example.org"}
    members = {"a.png": png(), "a.json": json.dumps(row).encode(), "b.png": png(), "b.json": b'{"class": "gull"}'}
    dataset = read(write_tar(tmp_path / "x.tar", members))
    assert labels(dataset) == ["wren", "gull"]
    assert dataset.records[0].captions == ("a small bird",)
    assert dataset.records[0].box == (1, 2, 3, 4)


def test_a_text_is_the_caption_and_cls_goes_before_json(tmp_path):
    members = {"a.cls": b"wren\n", "a.png": png(), "a.txt": b" a bird ", "a.json": b'{"label": "x", "caption": "y"}'}
    dataset = read(write_tar(tmp_path / "x.tar", {**members, **birds()}))
    assert labels(dataset)[0] == "wren"
    assert dataset.records[0].captions == ("a bird",)


def test_numbers_are_named_by_classnames_beside_the_tars(tmp_path):
    (tmp_path / "classnames.txt").write_text("gull\nwren\nowl\n")
    members = {"a.png": png(), "a.cls": b"1", "b.png": png("red"), "b.cls": b"0"}
    dataset = read(write_tar(tmp_path / "test" / "0.tar", members).parent)
    assert dataset.classnames == ("gull", "wren")
    assert labels(dataset) == ["wren", "gull"]
    assert left_out(dataset) == {"classes without photos": 1}


def test_a_number_without_a_name_is_refused(tmp_path):
    (tmp_path / "classnames.txt").write_text("gull\nwren\n")
    tar = write_tar(tmp_path / "0.tar", {"a.png": png(), "a.cls": b"7"})
    with pytest.raises(DataError, match="label 7 has no name"):
        read(tar)


def test_folders_in_the_keys_are_the_classes_where_nothing_else_says_them(tmp_path):
    members = {f"./photos/{name}/{i}.png": png() for name in ("wren", "gull") for i in range(2)}
    dataset = read(write_tar(tmp_path / "x.tar", members))
    assert labels(dataset) == ["wren", "wren", "gull", "gull"]
    assert paths(dataset)[0] == "x.tar/photos/wren/0"
    assert "the classes are the folders in the tars" in dataset.notes


def test_photos_without_any_class_are_of_one(tmp_path):
    dataset = read(write_tar(tmp_path / "x.tar", {"a.png": png(), "a.txt": b"a bird", "b.png": png()}))
    assert dataset.classnames == ("image",)
    assert any("no sample has a class" in note for note in dataset.notes)


# Rows that are left out, with a note.


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({"c.png": png()}, "samples without a class"),
        ({"c.cls": b"wren"}, "samples without an image"),
        ({"c.png": png(), "c.cls": b"\xff\xfe\x00junk"}, "samples without a class"),
        ({"c.png": png(), "c.cls": b""}, "samples without a class"),
        ({"c.png": png(), "c.cls": b"x" * 1000}, "samples without a class"),
        ({"c.png": png(), "c.json": b'{"label": ["a", "b"]}'}, "samples without a class"),
        ({"c.png": png(), "c.json": b"{" * 100_000}, "samples without a class"),
        ({"c.png": png(), "c.json": b'{"label": "wren", "x": "' + b"y" * (2 << 20) + b'"}'}, "samples without a class"),
        ({"../../etc/c.png": png(), "../../etc/c.cls": b"wren"}, "files in tars whose names lead outside"),
        ({"/etc/c.png": png()}, "files in tars whose names lead outside"),
        ({"README": b"hello"}, "files in tars without a key or an extension"),
        ({"wren-0.jpg": png()}, "further images of samples that have one already"),
    ],
)
def test_what_is_no_labelled_photo_is_left_out_with_a_count(tmp_path, members, kind):
    dataset = read(write_tar(tmp_path / "x.tar", [*birds().items(), *members.items()]))
    assert paths(dataset) == ["x.tar/wren-0", "x.tar/wren-1", "x.tar/gull-0", "x.tar/gull-1"]
    assert kind in left_out(dataset)


def test_of_two_files_of_one_name_the_first_is_read(tmp_path):
    twice = [("a.png", png("red")), ("a.cls", b"wren"), ("a.png", png("blue")), ("a.cls", b"gull")]
    dataset = read(write_tar(tmp_path / "x.tar", [*twice, *birds().items()]))
    assert labels(dataset)[0] == "wren"
    assert decode_photo(dataset.photo(dataset.records[0])).getpixel((0, 0)) == (255, 0, 0)
    assert left_out(dataset)["files that are in a tar twice"] == 1


def test_links_and_devices_are_left_out(tmp_path):
    tar = tmp_path / "x.tar"
    with tarfile.open(tar, "w") as packed:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            packed.addfile(info)
        info = tarfile.TarInfo("a.png")
        info.size = len(png())
        packed.addfile(info, io.BytesIO(png()))
    dataset = read(tar)
    assert paths(dataset) == ["x.tar/a"]
    assert left_out(dataset) == {"links, devices and sparse files in tars": 3}


def test_names_that_are_not_utf8_are_kept(tmp_path):
    name = b"w\xffren".decode("utf-8", "surrogateescape")
    dataset = read(write_tar(tmp_path / "x.tar", {f"{name}.png": png(), f"{name}.cls": b"wren"}))
    assert paths(dataset) == [f"x.tar/{name}"]
    assert decode_photo(dataset.photo(dataset.records[0])).size == (8, 6)


@pytest.mark.parametrize("cut", [1, 600, 1500, 2500])
def test_a_tar_that_is_cut_off_is_read_as_far_as_it_goes_and_named(tmp_path, cut):
    tar = write_tar(tmp_path / "x.tar", birds())
    whole = tar.read_bytes()
    with tarfile.open(tar) as packed:
        end = max(info.offset_data + info.size for info in packed.getmembers())
    tar.write_bytes(whole[: end - cut])
    dataset = read(tar)
    assert 1 <= len(dataset) <= 4
    assert any("cut off or damaged" in note and "x.tar" in note for note in dataset.notes)


def test_a_photo_that_the_end_of_the_tar_cuts_costs_its_own_row(tmp_path, tiny_model):
    from flip import extract_features, load_model

    tar = tmp_path / "x.tar"
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(noise, "PNG")
    write_tar(tar, birds() | {"z.cls": b"wren", "z.png": noise.getvalue()})
    with tarfile.open(tar) as packed:
        last = packed.getmember("z.png")
    tar.write_bytes(tar.read_bytes()[: last.offset_data + 700])
    dataset = read(tar)
    features = extract_features(dataset, load_model(str(tiny_model)), cache=tmp_path / "cache")
    assert [error is None for error in features.errors] == [True, True, True, True, False]
    assert "ends within it" in features.errors[4]


def test_bytes_that_are_no_image_cost_their_own_row(tmp_path, tiny_model):
    from flip import extract_features, load_model

    tar = write_tar(tmp_path / "x.tar", birds() | {"z.jpg": b"no photo", "z.cls": b"wren"})
    features = extract_features(read(tar), load_model(str(tiny_model)), cache=tmp_path / "cache")
    assert [path for path, error in zip(features.paths, features.errors, strict=True) if error] == ["x.tar/z"]


def test_the_features_are_those_of_the_unpacked_photos(tmp_path, squares, tiny_model):
    import numpy as np

    from flip import extract_features, load_model

    members = {}
    for photo in sorted(squares.rglob("*.png")):
        key = photo.relative_to(squares).with_suffix("").as_posix()
        members |= {f"{key}.png": photo.read_bytes(), f"{key}.cls": photo.parent.name.encode()}
    tar = write_tar(tmp_path / "x.tar", members)
    model = load_model(str(tiny_model))
    packed = extract_features(read(tar), model, cache=tmp_path / "one")
    plain = extract_features(open_dataset(squares), model, cache=tmp_path / "two")
    row = {path.removesuffix(".png"): i for i, path in enumerate(plain.paths)}
    order = [row[path.removeprefix("x.tar/")] for path in packed.paths]
    np.testing.assert_array_equal(packed.image_features, plain.image_features[order])
    assert [packed.classnames[c] for c in packed.labels] == [plain.classnames[plain.labels[i]] for i in order]


def test_a_tar_that_was_packed_again_is_embedded_again(tmp_path, tiny_model):
    from flip import extract_features, load_model

    model, tar = load_model(str(tiny_model)), tmp_path / "x.tar"
    write_tar(tar, {"a.png": png("red"), "a.cls": b"wren"})
    before = extract_features(read(tar), model, cache=tmp_path / "cache")
    write_tar(tar, {"a.png": png("blue"), "a.cls": b"wren"})
    after = extract_features(read(tar), model, cache=tmp_path / "cache")
    assert (before.image_features != after.image_features).any()


def test_a_manifest_may_name_photos_in_tars(tmp_path):
    from flip.data.manifest_file import write_manifest

    write_manifest(read(write_tar(tmp_path / "tars" / "x.tar", birds())), tmp_path / "clean.csv")
    assert "tars/x.tar/gull-1,gull" in (tmp_path / "clean.csv").read_text()
    mount(tmp_path / "tars" / "x.tar", TarMount(tmp_path / "tars" / "x.tar", {}))  # as another process would begin
    dataset = open_dataset(tmp_path / "clean.csv")
    assert decode_photo(dataset.photo(dataset.records[3])).getpixel((0, 0)) == (40, 20, 90)
    (tmp_path / "wrong.csv").write_text("path,label\ntars/x.tar/gull-7,gull\n")
    with pytest.raises(DataError, match=r"wrong.csv:2: no file 'tars/x.tar/gull-7'"):
        open_dataset(tmp_path / "wrong.csv")


# Refused tars.


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no tar that can be read"),
        (b"\0" * 10240, "holds no image"),
        (b"hello" * 1000, "no tar that can be read"),
        (gzip.compress(b"\0" * 10240, mtime=0), "compressed by gzip"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 100, "compressed by zstd"),
    ],
)
def test_what_is_no_tar_is_one_line(tmp_path, content, match):
    tar = tmp_path / "x.tar"
    tar.write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        read(tar)
    assert "x.tar" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("none-{0..3}.tar", "no file .*none-0.tar, one of the 4"),
        ("birds-{0..3}.tar", "no file .*birds-1.tar, one of the 4"),
        ("birds-{0..99999999999}.tar", "more than 1,000,000"),
        ("birds-}{.tar", "."),
        ("birds-{0000..}.tar", "."),
    ],
)
def test_a_pattern_that_stands_for_nothing_is_one_line(tmp_path, pattern, match):
    write_tar(tmp_path / "birds-0.tar", birds())
    with pytest.raises(DataError, match=match):
        read(tmp_path / pattern)


def test_without_the_library_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'flip-clip\[webdataset\]'"):
        read(write_tar(tmp_path / "x.tar", birds()))


def test_class_folders_beside_the_archive_that_they_came_from_are_read_as_folders(tmp_path, draw):
    draw("wren/1.png")
    draw("gull/1.png")
    write_tar(tmp_path / "images.tar", birds())
    assert open_dataset(tmp_path).layout == "class-folders"
