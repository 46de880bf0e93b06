"""Small copies of published archives, in the formats of their index files: splits, class counts and names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from flip.data.dataset import Dataset
from flip.data.images import decode_image
from flip.data.layouts.flowers_102 import NAMES
from flip.data.open import open_dataset
from flip.errors import DataError

Draw = Callable[..., Path]
Write = Callable[[str, str], Path]


def left_out(dataset: Dataset) -> dict[str, tuple[int, str]]:
    return {omission.kind: (omission.count, omission.first) for omission in dataset.left_out}


def rows(dataset: Dataset) -> list[tuple[str, str, str]]:
    return [(record.path, dataset.classnames[record.label], record.split) for record in dataset.records]


def cells(*values: object) -> np.ndarray:
    """A MATLAB cell array of one row."""
    array = np.empty((1, len(values)), object)
    array[0] = values
    return array


def structs(*values: dict[str, object]) -> np.ndarray:
    """A MATLAB struct array of one row."""
    array = np.empty((1, len(values)), [(name, object) for name in values[0]])
    for i, value in enumerate(values):
        array[0, i] = tuple(value.values())
    return array


# NABirds


@pytest.fixture
def nabirds(draw: Draw, write: Write, tmp_path: Path) -> Path:
    photos = {
        "0000139e-21dc-4d0c-bfe1-4cae3c85c829": ("0817/0000139e21dc4d0cbfe14cae3c85c829.jpg", 817, 0),
        "0000d9fc-4e02-4c06-a0af-a55cfb16b12b": ("0817/0000d9fc4e024c06a0afa55cfb16b12b.jpg", 817, 1),
        "00019306-9d83-4334-b255-a44742edce18": ("0600/000193069d834334b255a44742edce18.jpg", 600, 1),
        "0001afd4-99a1-4a67-b940-d419413e23b3": ("1010/0001afd499a14a67b940d419413e23b3.jpg", 1010, 0),
    }
    for path, _, _ in photos.values():
        draw(f"nabirds/images/{path}")
    write("nabirds/images.txt", "".join(f"{i} {path}\n" for i, (path, _, _) in photos.items()))
    write("nabirds/image_class_labels.txt", "".join(f"{i} {c}\n" for i, (_, c, _) in photos.items()))
    write("nabirds/train_test_split.txt", "".join(f"{i} {t}\n" for i, (_, _, t) in photos.items()))
    write("nabirds/bounding_boxes.txt", "".join(f"{i} 1 2 3 4\n" for i in photos))
    write(
        "nabirds/classes.txt",
        "0 Birds\n22 Perching Birds\n23 Ducks, Geese, and Swans\n400 Oak Titmouse\n"
        "600 Snow Goose (White morph)\n817 Oak Titmouse\n1010 Dark-eyed Junco (Oregon)\n",
    )
    write("nabirds/hierarchy.txt", "22 0\n23 0\n400 22\n600 23\n817 400\n1010 22\n")
    return tmp_path


@pytest.mark.parametrize("inner", ["", "nabirds"])
def test_nabirds(nabirds: Path, inner: str) -> None:
    dataset = open_dataset(nabirds / inner)
    assert dataset.layout == "nabirds"
    assert dataset.classnames == ("Snow Goose (White morph)", "Oak Titmouse", "Dark-eyed Junco (Oregon)")
    assert dataset.splits == {"train": 2, "test": 2}
    assert dataset.labels.tolist() == [1, 1, 0, 2]
    assert left_out(dataset)["classes without photos"] == (4, "Birds")
    assert {rank.name: rank.groups for rank in dataset.ranks} == {
        "order": ("Ducks, Geese, and Swans", "Perching Birds", "Perching Birds"),
        "parent": ("Ducks, Geese, and Swans", "Oak Titmouse", "Perching Birds"),
    }
    assert dataset.records[0].box == (1.0, 2.0, 3.0, 4.0)
    assert all(dataset.file(record).is_file() for record in dataset.records)


def test_a_hierarchy_that_runs_in_a_circle_is_reported(nabirds: Path) -> None:
    (nabirds / "nabirds" / "hierarchy.txt").write_text("22 400\n400 22\n")
    with pytest.raises(DataError, match=r"hierarchy.txt:\d: node \d+ lies above itself"):
        open_dataset(nabirds)


def test_classes_of_cub_without_photos_are_left_out_and_said(cub: Callable[[str], Path], write: Write) -> None:
    root = cub("CUB")
    write("CUB/classes.txt", "1 001.Red_Wren\n2 002.Sea_Gull\n3 003.Great_Owl\n")
    dataset = open_dataset(root)
    assert dataset.classnames == ("Red Wren", "Sea Gull")
    assert left_out(dataset) == {"classes without photos": (1, "003.Great_Owl")}


def test_captions_and_photos_that_belong_to_no_class_are_said(
    cub: Callable[[str], Path], write: Write, draw: Draw
) -> None:
    root = cub("CUB")
    write("CUB/text/001.Red_Wren/Wren_1.txt", "a red bird")
    write("CUB/text/002.sea_gull/Gull_1.txt", "a gull")
    draw("CUB/images/001.Red_Wren/extra.jpg")
    assert left_out(open_dataset(root)) == {
        "folders of captions that no class of photos is called": (1, "text/002.sea_gull/"),
        "photos that the index files do not list": (1, "images/001.Red_Wren/extra.jpg"),
    }


# iNaturalist 2021

WORM = "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris"
THRUSH = "03982_Animalia_Chordata_Aves_Passeriformes_Turdidae_Turdus_merula"
OAK = "09999_Plantae_Tracheophyta_Magnoliopsida_Fagales_Fagaceae_Quercus_robur"


def test_inaturalist(draw: Draw, write: Write, tmp_path: Path) -> None:
    for name in (WORM, THRUSH, OAK):
        draw(f"train_mini/{name}/a.jpg")
        draw(f"val/{name}/b.jpg")
    draw("public_test/c.jpg")
    write("train_mini.json", "{}")
    dataset = open_dataset(tmp_path)
    assert str(dataset) == "inaturalist: 6 photos, 3 classes, train 3, val 3"
    assert dataset.raw_names == (WORM, THRUSH, OAK)
    assert dataset.classnames == ("Lumbricus terrestris", "Turdus merula", "Quercus robur")
    assert [rank.name for rank in dataset.ranks] == ["kingdom", "phylum", "class", "order", "family", "genus"]
    assert dataset.ranks[0].groups == ("Animalia", "Animalia", "Plantae")
    assert dataset.ranks[5].groups == ("Lumbricus", "Turdus", "Quercus")
    assert left_out(dataset) == {"folders of photos without labels": (1, "public_test/")}


def test_inaturalists_small_training_set_is_left_out_where_the_large_one_is_there(draw: Draw, tmp_path: Path) -> None:
    for folder in ("train", "train_mini", "val"):
        draw(f"2021/{folder}/{WORM}/{folder}.jpg")
    (tmp_path / "2021" / "val" / THRUSH).mkdir()
    dataset = open_dataset(tmp_path)
    assert dataset.splits == {"train": 1, "val": 1}
    assert left_out(dataset) == {
        "folders of photos that train/ holds as well": (1, "train_mini/"),
        "folders without photos": (1, f"val/{THRUSH}/"),
    }


def test_one_folder_of_inaturalist_has_its_names(draw: Draw, tmp_path: Path) -> None:
    for name in (WORM, THRUSH):
        draw(f"{name}/a.jpg")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.classnames) == ("class-folders", ("Lumbricus terrestris", "Turdus merula"))


# Flowers-102


def flowers(draw: Draw, folder: Path, base: str) -> Path:
    for i in range(1, 7):
        draw(f"{base}jpg/image_{i:05d}.jpg")
    savemat(folder / base / "imagelabels.mat", {"labels": np.array([[77, 77, 1, 1, 102, 60]], np.uint8)})
    ids = {"trnid": [[1, 3]], "valid": [[5]], "tstid": [[2, 4, 6]]}
    savemat(folder / base / "setid.mat", {name: np.array(value, np.uint16) for name, value in ids.items()})
    return folder


@pytest.mark.parametrize("base", ["", "flowers-102/"])
def test_flowers(draw: Draw, tmp_path: Path, base: str) -> None:
    dataset = open_dataset(flowers(draw, tmp_path, base))
    assert dataset.layout == "flowers-102"
    assert dataset.classnames == ("pink primrose", "pink-yellow dahlia", "passion flower", "blackberry lily")
    assert rows(dataset) == [
        (f"{base}jpg/image_00001.jpg", "passion flower", "train"),
        (f"{base}jpg/image_00003.jpg", "pink primrose", "train"),
        (f"{base}jpg/image_00005.jpg", "blackberry lily", "val"),
        (f"{base}jpg/image_00002.jpg", "passion flower", "test"),
        (f"{base}jpg/image_00004.jpg", "pink primrose", "test"),
        (f"{base}jpg/image_00006.jpg", "pink-yellow dahlia", "test"),
    ]
    assert left_out(dataset)["classes without photos"] == (98, "hard-leaved pocket orchid")


def test_the_names_of_flowers_are_102_and_those_that_torchvision_has() -> None:
    from torchvision.datasets import Flowers102

    names = NAMES.split("; ")
    assert len(names) == len(set(names)) == 102
    assert names == Flowers102.classes


def test_flowers_without_their_split_are_no_class_called_jpg(draw: Draw, tmp_path: Path) -> None:
    flowers(draw, tmp_path, "")
    (tmp_path / "setid.mat").unlink()
    with pytest.raises(DataError, match=r"holds its photos in jpg/, which is no class by name.*setid.mat is not there"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + b"\0" * 100, b"<html>"])
def test_a_broken_matlab_file_is_named(draw: Draw, tmp_path: Path, content: bytes) -> None:
    flowers(draw, tmp_path, "")
    (tmp_path / "setid.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"setid.mat is not a MATLAB file that can be read"):
        open_dataset(tmp_path)


def test_a_matlab_file_of_something_else_is_named(draw: Draw, tmp_path: Path) -> None:
    flowers(draw, tmp_path, "")
    savemat(tmp_path / "setid.mat", {"other": [1, 2]})
    with pytest.raises(DataError, match=r"setid.mat has no variable 'trnid'; it has other"):
        open_dataset(tmp_path)


# Oxford Pets


def pets(draw: Draw, write: Write, base: str) -> None:
    names = ["Abyssinian_1", "Abyssinian_2", "american_pit_bull_terrier_1", "american_pit_bull_terrier_10", "beagle_7"]
    for name in names:
        draw(f"{base}images/{name}.jpg")
        draw(f"{base}annotations/trimaps/{name}.png")
    write(f"{base}images/Abyssinian_100.mat", "x")
    draw(f"{base}images/beagle_99.jpg")
    header = "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n#SPECIES: 1:Cat 2:Dog\n"
    train = "Abyssinian_1 1 1 1\namerican_pit_bull_terrier_1 3 2 2\n"
    test = "Abyssinian_2 1 1 1\namerican_pit_bull_terrier_10 3 2 2\nbeagle_7 5 2 4\n"
    write(f"{base}annotations/list.txt", header + train + test)
    write(f"{base}annotations/trainval.txt", train)
    write(f"{base}annotations/test.txt", test)


@pytest.mark.parametrize("base", ["", "oxford-iiit-pet/"])
def test_pets(draw: Draw, write: Write, tmp_path: Path, base: str) -> None:
    pets(draw, write, base)
    dataset = open_dataset(tmp_path)
    assert str(dataset) == "oxford-pets: 5 photos, 3 classes, train 2, test 3"
    assert dataset.raw_names == ("Abyssinian", "american_pit_bull_terrier", "beagle")
    assert dataset.classnames == ("Abyssinian", "American Pit Bull Terrier", "Beagle")
    assert rows(dataset)[1] == (f"{base}images/american_pit_bull_terrier_1.jpg", "American Pit Bull Terrier", "train")
    assert dataset.ranks == (("species", ("cat", "dog", "dog")),)
    assert left_out(dataset) == {"photos that the index files do not list": (1, "images/beagle_99.jpg")}


def test_pets_without_their_lists_are_no_classes_called_annotations_and_images(
    draw: Draw, write: Write, tmp_path: Path
) -> None:
    pets(draw, write, "")
    (tmp_path / "annotations" / "test.txt").unlink()
    with pytest.raises(DataError, match=r"annotations/ and images/, which are no classes by name.*test.txt is not"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("line", ["Abyssinian_1 1 1", "Abyssinian_1 one 1 1", "Abyssinian_1 1 3 1", "Abyssinian 1 1 1"])
def test_a_malformed_line_of_pets_is_named(draw: Draw, write: Write, tmp_path: Path, line: str) -> None:
    pets(draw, write, "")
    write("annotations/trainval.txt", f"{line}\n")
    with pytest.raises(DataError, match=r"trainval.txt:1: 'Abyssinian.*' is not name, class, species and breed"):
        open_dataset(tmp_path)


# FGVC-Aircraft


def aircraft(tmp_path: Path, write: Write, base: str, parts: tuple[str, ...] = ("train", "val", "test")) -> None:
    photos = {
        "train": ("0056978", "707-320", "Boeing 707", "Boeing"),
        "val": ("1025794", "A300B4", "A300", "Airbus"),
        "test": ("0034309", "F/A-18", "F/A-18", "McDonnell Douglas"),
    }
    (tmp_path / base / "images").mkdir(parents=True)
    for number, *_ in photos.values():
        photo = np.full((60, 80, 3), 200, np.uint8)
        photo[-20:] = 0
        Image.fromarray(photo).save(tmp_path / base / "images" / f"{number}.jpg", quality=100)
    for i, rank in ((1, "variant"), (2, "family"), (3, "manufacturer")):
        lines = {part: f"{photo[0]} {photo[i]}\n" for part, photo in photos.items()}
        lines["trainval"] = lines["train"] + lines["val"]
        for part in parts:
            write(f"{base}images_{rank}_{part}.txt", lines[part])
    write(f"{base}variants.txt", "707-320\n727-200\nA300B4\nF/A-18\n")
    write(f"{base}images_box.txt", "0034309 3 14 78 38\n0056978 1 1 80 40\n1025794 1 1 80 40\n")


@pytest.mark.parametrize("base", ["", "data/", "fgvc-aircraft-2013b/data/"])
def test_aircraft(tmp_path: Path, write: Write, base: str) -> None:
    aircraft(tmp_path, write, base)
    dataset = open_dataset(tmp_path)
    assert str(dataset) == "fgvc-aircraft: 3 photos, 3 classes, train 1, val 1, test 1"
    assert dataset.classnames == dataset.raw_names == ("707-320", "A300B4", "F/A-18")
    assert rows(dataset)[2] == (f"{base}images/0034309.jpg", "F/A-18", "test")
    assert [tuple(rank) for rank in dataset.ranks] == [
        ("manufacturer", ("Boeing", "Airbus", "McDonnell Douglas")),
        ("family", ("Boeing 707", "A300", "F/A-18")),
    ]
    assert left_out(dataset) == {"classes without photos": (1, "727-200")}


def test_the_banner_below_an_aircraft_is_cut_with_and_without_boxes(tmp_path: Path, write: Write) -> None:
    aircraft(tmp_path, write, "")
    dataset = open_dataset(tmp_path)
    record = dataset.records[2]
    whole = decode_image(dataset.file(record), record.region(crop=False))
    assert whole.size == (80, 40)
    assert np.asarray(whole).min() > 150
    assert record.box == (2.0, 13.0, 76.0, 25.0)
    assert decode_image(dataset.file(record), record.region(crop=True)).size == (76, 25)


def test_aircraft_with_train_and_validation_in_one_list(tmp_path: Path, write: Write) -> None:
    aircraft(tmp_path, write, "", ("trainval", "test"))
    assert open_dataset(tmp_path).splits == {"train": 2, "test": 1}


# Stanford Cars

CARS = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "smart fortwo Convertible 2012"]


def car(number: int, label: int | None, column: str = "fname", folder: str = "", **more: int) -> dict[str, object]:
    corners = {"bbox_x1": 1, "bbox_y1": 2, "bbox_x2": 5, "bbox_y2": 6}
    name = {column: f"{folder}{number:06d}.jpg" if folder else f"{number:05d}.jpg"}
    label_of = {} if label is None else {"class": np.uint8(label)}
    return {**(name if folder else {}), **corners, **label_of, **({} if folder else name), **more}


def cars(draw: Draw, folder: Path, devkit: str = "devkit") -> None:
    (folder / devkit).mkdir(parents=True)
    for split, count in (("train", 3), ("test", 2)):
        for i in range(1, count + 1):
            draw(f"cars_{split}/{i:05d}.jpg")
    savemat(folder / devkit / "cars_meta.mat", {"class_names": cells(*CARS)})
    train = structs(car(1, 3), car(2, 1), car(3, 2))
    savemat(folder / devkit / "cars_train_annos.mat", {"annotations": train})
    savemat(folder / devkit / "cars_test_annos.mat", {"annotations": structs(car(1, None), car(2, None))})


@pytest.mark.parametrize("place", ["", "devkit"])
def test_cars_with_the_labels_of_the_test_photos(draw: Draw, tmp_path: Path, place: str) -> None:
    cars(draw, tmp_path)
    tests = structs(car(1, 2), car(2, 3))
    savemat(tmp_path / place / "cars_test_annos_withlabels.mat", {"annotations": tests})
    dataset = open_dataset(tmp_path)
    assert str(dataset) == "stanford-cars: 5 photos, 3 classes, train 3, test 2"
    assert dataset.classnames == tuple(CARS)
    assert rows(dataset)[0] == ("cars_train/00001.jpg", CARS[2], "train")
    assert rows(dataset)[3] == ("cars_test/00001.jpg", CARS[1], "test")
    assert dataset.records[0].box == (0.0, 1.0, 5.0, 5.0)
    assert dataset.left_out == ()


def test_cars_without_them_are_training_photos_only_and_that_is_said(draw: Draw, tmp_path: Path) -> None:
    cars(draw, tmp_path, "car_devkit/devkit")
    dataset = open_dataset(tmp_path)
    assert dataset.splits == {"train": 3}
    kind = "test photos without labels (there is no cars_test_annos_withlabels.mat)"
    assert left_out(dataset) == {kind: (2, "cars_test/00001.jpg")}
    with pytest.raises(DataError, match=r"split 'test' .* has no photo; it has train \(3\)"):
        dataset.select("test")


def test_cars_in_one_folder(draw: Draw, tmp_path: Path) -> None:
    for i in range(1, 4):
        draw(f"stanford_cars/car_ims/{i:06d}.jpg")
    annotations = structs(*(car(i, i, "relative_im_path", "car_ims/", test=i % 2) for i in range(1, 4)))
    content = {"annotations": annotations, "class_names": cells(*CARS)}
    savemat(tmp_path / "stanford_cars" / "cars_annos.mat", content)
    dataset = open_dataset(tmp_path)
    assert rows(dataset) == [
        ("stanford_cars/car_ims/000001.jpg", CARS[0], "test"),
        ("stanford_cars/car_ims/000002.jpg", CARS[1], "train"),
        ("stanford_cars/car_ims/000003.jpg", CARS[2], "test"),
    ]


def test_one_car_alone_is_read(draw: Draw, tmp_path: Path) -> None:
    """MATLAB files do not tell an array of one from its element."""
    draw("car_ims/000001.jpg")
    content = {"annotations": structs(car(1, 1, "relative_im_path", "car_ims/", test=0)), "class_names": cells(CARS[0])}
    savemat(tmp_path / "cars_annos.mat", content)
    assert open_dataset(tmp_path).classnames == (CARS[0],)


# Stanford Dogs


def column(*values: object) -> np.ndarray:
    """A MATLAB cell array of one column."""
    return cells(*values).T


def dogs(draw: Draw, folder: Path, lists: str = "") -> None:
    photos = {
        "train": [("n02085620-Chihuahua/n02085620_5927.jpg", 1), ("n02085782-Japanese_spaniel/n02085782_1.jpg", 2)],
        "test": [("n02085620-Chihuahua/n02085620_2650.jpg", 1)],
    }
    (folder / lists).mkdir(exist_ok=True)
    for split, listed in photos.items():
        for path, _ in listed:
            draw(f"Images/{path}")
            annotation = folder / "Annotation" / path.removesuffix(".jpg")
            annotation.parent.mkdir(parents=True, exist_ok=True)
            annotation.write_text("<annotation/>")
        content = {
            "file_list": column(*(path for path, _ in listed)),
            "annotation_list": column(*(path.removesuffix(".jpg") for path, _ in listed)),
            "labels": np.array([[label] for _, label in listed], np.uint8),
        }
        savemat(folder / lists / f"{split}_list.mat", content)


@pytest.mark.parametrize("lists", ["", "lists"])
def test_dogs(draw: Draw, tmp_path: Path, lists: str) -> None:
    dogs(draw, tmp_path, lists)
    dataset = open_dataset(tmp_path)
    assert str(dataset) == "stanford-dogs: 3 photos, 2 classes, train 2, test 1"
    assert dataset.classnames == ("Chihuahua", "Japanese spaniel")
    assert dataset.raw_names == ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
    assert rows(dataset)[2] == ("Images/n02085620-Chihuahua/n02085620_2650.jpg", "Chihuahua", "test")


def test_dogs_whose_lists_disagree_are_reported(draw: Draw, tmp_path: Path) -> None:
    dogs(draw, tmp_path)
    content = {"file_list": column("n02085782-Japanese_spaniel/n02085782_1.jpg"), "labels": np.array([[1]], np.uint8)}
    savemat(tmp_path / "test_list.mat", content)
    with pytest.raises(
        DataError, match=r"test_list.mat: class 1 is 'n02085782-Japanese_spaniel' for .* and 'n02085620"
    ):
        open_dataset(tmp_path)


def test_the_images_of_dogs_alone_say_that_the_official_split_is_not_used(draw: Draw, tmp_path: Path) -> None:
    dogs(draw, tmp_path)
    dataset = open_dataset(tmp_path / "Images")
    assert dataset.layout == "class-folders"
    assert dataset.classnames == ("Chihuahua", "Japanese spaniel")
    assert any("the official split of Stanford Dogs" in note and str(tmp_path) in note for note in dataset.notes)


# Food-101


def food(draw: Draw, write: Write, base: str) -> None:
    for path in ("apple_pie/1005649", "apple_pie/1014775", "waffles/981485", "waffles/98"):
        draw(f"{base}images/{path}.jpg")
    write(f"{base}meta/classes.txt", "apple_pie\nwaffles\n")
    write(f"{base}meta/labels.txt", "Apple pie\nWaffles\n")
    write(f"{base}meta/train.txt", "apple_pie/1005649\nwaffles/981485\n")
    write(f"{base}meta/test.txt", "apple_pie/1014775\nwaffles/98\n")


@pytest.mark.parametrize("base", ["", "food-101/"])
def test_food(draw: Draw, write: Write, tmp_path: Path, base: str) -> None:
    food(draw, write, base)
    dataset = open_dataset(tmp_path)
    assert str(dataset) == "food-101: 4 photos, 2 classes, train 2, test 2"
    assert dataset.raw_names == ("apple_pie", "waffles")
    assert dataset.classnames == ("Apple pie", "Waffles")
    assert rows(dataset)[2] == (f"{base}images/apple_pie/1014775.jpg", "Apple pie", "test")


def test_food_by_its_json_files(draw: Draw, write: Write, tmp_path: Path) -> None:
    food(draw, write, "")
    for split in ("train", "test"):
        listed = (tmp_path / "meta" / f"{split}.txt").read_text().split()
        by_class = {name: [path for path in listed if path.startswith(name)] for name in ("apple_pie", "waffles")}
        write(f"meta/{split}.json", json.dumps(by_class))
        (tmp_path / "meta" / f"{split}.txt").unlink()
    (tmp_path / "meta" / "labels.txt").unlink()
    dataset = open_dataset(tmp_path)
    assert dataset.splits == {"train": 2, "test": 2}
    assert dataset.classnames == ("apple pie", "waffles")


def test_a_dish_that_is_not_there_is_named_with_its_line(draw: Draw, write: Write, tmp_path: Path) -> None:
    food(draw, write, "")
    write("meta/test.txt", "apple_pie/1014775\nwaffles/7\n")
    with pytest.raises(DataError, match=r"test.txt:2: no file .*images/waffles/7.jpg; put the photo there"):
        open_dataset(tmp_path)


# Birdsnap


def birdsnap(draw: Draw, write: Write, below: str) -> None:
    for path in ("Acadian_Flycatcher/100.jpg", "Acadian_Flycatcher/101.jpg", "Annas_Hummingbird/7.jpg"):
        draw(f"{below}{path}")
    write(
        "species.txt",
        "id\tcommon\tscientific\tdir\n1\tAcadian Flycatcher\tEmpidonax virescens\tAcadian_Flycatcher\n"
        "2\tAnna's Hummingbird\tCalypte anna\tAnnas_Hummingbird\n3\tBlue Jay\tCyanocitta cristata\tBlue_Jay\n",
    )
    photos = [("Acadian_Flycatcher/100.jpg", 1), ("Acadian_Flycatcher/101.jpg", 1), ("Annas_Hummingbird/7.jpg", 2)]
    photos += [("Annas_Hummingbird/8.jpg", 2), ("Blue_Jay/1.jpg", 3)]
    lines = [f"http://x/{i}\t{'0' * 32}\t{path}\t{c}\t1\t2\t5\t6\tnull\tnull" for i, (path, c) in enumerate(photos)]
    header = "url\tmd5\tpath\tspecies_id\tbb_x1\tbb_y1\tbb_x2\tbb_y2\tback_x\tback_y"
    write("images.txt", "\n".join([header, *lines, ""]))
    write("test_images.txt", "path\nAcadian_Flycatcher/101.jpg\nBlue_Jay/1.jpg\n")


@pytest.mark.parametrize("below", ["download/images/", "images/", ""])
def test_birdsnap(draw: Draw, write: Write, tmp_path: Path, below: str) -> None:
    birdsnap(draw, write, below)
    dataset = open_dataset(tmp_path)
    assert str(dataset) == "birdsnap: 3 photos, 2 classes, train 2, test 1"
    assert dataset.classnames == ("Acadian Flycatcher", "Anna's Hummingbird")
    assert dataset.raw_names == ("Acadian_Flycatcher", "Annas_Hummingbird")
    assert dataset.records[1].split == "test"
    assert dataset.records[0].box == (1.0, 2.0, 4.0, 4.0)
    assert dataset.ranks == (("scientific", ("Empidonax virescens", "Calypte anna")),)
    assert left_out(dataset) == {
        "photos that were not fetched": (2, f"{below}Annas_Hummingbird/8.jpg"),
        "classes without photos": (1, "Blue_Jay"),
    }


@pytest.mark.parametrize("path", ["images/Acadian_Flycatcher/101.jpg", "Acadian_Flycatcher/101.JPG", "none.jpg"])
def test_a_test_photo_of_birdsnap_under_another_name_is_refused(
    draw: Draw, write: Write, tmp_path: Path, path: str
) -> None:
    birdsnap(draw, write, "images/")
    write("test_images.txt", f"path\n{path}\n")
    with pytest.raises(DataError, match=f"test_images.txt:2: {path} is no path of images.txt"):
        open_dataset(tmp_path)


def test_labels_that_differ_from_the_folders_of_an_archive_are_said(
    draw: Draw, write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flip")
    birdsnap(draw, write, "images/")
    text = (tmp_path / "images.txt").read_text()
    write("images.txt", text.replace("Annas_Hummingbird/7.jpg\t2", "Annas_Hummingbird/7.jpg\t1"))
    open_dataset(tmp_path)
    assert any("labels that differ from the photo's folder (1), the first images/Annas_H" in m for m in caplog.messages)


def test_birdsnap_before_anything_was_fetched(draw: Draw, write: Write, tmp_path: Path) -> None:
    birdsnap(draw, write, "elsewhere/")
    with pytest.raises(DataError, match="holds none of the photos that its index files list"):
        open_dataset(tmp_path, layout="birdsnap")


def test_a_table_without_its_header_is_named(draw: Draw, write: Write, tmp_path: Path) -> None:
    birdsnap(draw, write, "images/")
    write("species.txt", "1\tBlue Jay\tCyanocitta cristata\tBlue_Jay\n")
    with pytest.raises(DataError, match=r"species.txt has no column 'id'; its first line must name them"):
        open_dataset(tmp_path)


# All of them


def test_the_layout_of_another_archive_is_refused_with_what_it_needs(draw: Draw, tmp_path: Path) -> None:
    draw("wren/1.jpg")
    for layout in ("nabirds", "inaturalist", "flowers-102", "oxford-pets", "fgvc-aircraft", "stanford-cars"):
        with pytest.raises(DataError, match="must hold"):
            open_dataset(tmp_path, layout=layout)
    for layout in ("stanford-dogs", "food-101", "birdsnap"):
        with pytest.raises(DataError, match="must hold"):
            open_dataset(tmp_path, layout=layout)


def test_everything_that_was_left_out_is_logged_once(
    draw: Draw, write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flip")
    birdsnap(draw, write, "images/")
    open_dataset(tmp_path)
    counts = Counter(message for message in caplog.messages if "left out" in message)
    assert counts["birdsnap: left out photos that were not fetched (2), the first images/Annas_Hummingbird/8.jpg"] == 1
    assert set(counts.values()) == {1}
