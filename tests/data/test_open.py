from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flip.data.open import open_dataset
from flip.errors import ConfigError, DataError

Cub = Callable[[str], Path]
Draw = Callable[..., Path]
Write = Callable[[str, str], Path]


def test_cub_is_recognised_in_its_three_shapes(cub: Cub, write: Write, tmp_path: Path) -> None:
    plain = cub("plain/CUB_200_2011")
    cub("beside/CUB_200_2011")
    write("beside/text/001.Red_Wren/Wren_1.txt", "a")
    write("plain/CUB_200_2011/README", "x")
    inside = cub("inside")
    write("inside/text/001.Red_Wren/Wren_1.txt", "a")
    assert [open_dataset(root).layout for root in (plain, plain.parent, tmp_path / "beside", inside)] == ["cub"] * 4
    assert str(open_dataset(inside)) == "cub: 4 photos, 2 classes, train 2, test 2, captions for 1"
    assert str(open_dataset(plain)) == "cub: 4 photos, 2 classes, train 2, test 2"


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("split-folders", ["train/wren/1.jpg", "test/wren/2.jpg"]),
        ("split-folders", ["train/wren/1.jpg"]),
        ("split-folders", ["Train/wren/1.jpg", "Validation/wren/2.jpg", "extras/3.jpg"]),
        ("class-folders", ["train/1.jpg", "bus/2.jpg"]),
        ("class-folders", ["train/steam/1.jpg", "bus/city/2.jpg"]),
        ("images-folder", ["images/wren/1.jpg", "images/gull/2.jpg"]),
        ("class-folders", ["images/1.jpg", "wren/2.jpg"]),
        ("class-folders", ["wren/1.jpg", "gull/2.jpg"]),
        ("class-folders", ["wren/1.jpg"]),
    ],
)
def test_folders_are_recognised(draw: Draw, tmp_path: Path, layout: str, files: list[str]) -> None:
    for file in files:
        draw(file)
    assert open_dataset(tmp_path).layout == layout


def test_flat_images_with_captions_are_recognised(draw: Draw, write: Write, tmp_path: Path) -> None:
    draw("images/1.jpg")
    write("captions.json", '{"1.jpg": "a wren"}')
    assert str(open_dataset(tmp_path)) == "images-folder: 1 photo, 1 class, train 1, captions for 1"


def test_flat_splits_with_metadata_are_recognised(draw: Draw, write: Write, tmp_path: Path) -> None:
    draw("train/1.jpg")
    draw("test/1.jpg")
    write("train/metadata.csv", "file_name,label\n1.jpg,wren\n")
    write("test/metadata.csv", "file_name,label\n1.jpg,wren\n")
    assert str(open_dataset(tmp_path)) == "split-folders: 2 photos, 1 class, train 1, test 1"


def test_flat_splits_without_classes_are_not_taken_for_classes(draw: Draw, tmp_path: Path) -> None:
    draw("train/1.jpg")
    draw("test/1.jpg")
    with pytest.raises(DataError, match=r"test/1.jpg has no class; put it in a folder named for its class"):
        open_dataset(tmp_path)


def test_flat_photos_with_metadata_are_a_manifest(draw: Draw, write: Write, tmp_path: Path) -> None:
    draw("1.jpg")
    write("metadata.csv", "file_name,label,text\n1.jpg,wren,a wren\n")
    assert str(open_dataset(tmp_path)) == "manifest: 1 photo, 1 class, train 1, captions for 1"


def test_a_manifest_and_a_home_folder(
    draw: Draw, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draw("1.jpg")
    write("photos.tsv", "path\tlabel\n1.jpg\twren\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_dataset("~/photos.tsv").layout == "manifest"


def test_the_layout_can_be_given(cub: Cub) -> None:
    root = cub("CUB")
    assert open_dataset(root, layout="images-folder").layout == "images-folder"
    assert open_dataset(root / "images", layout="class-folders").raw_names == ("001.Red_Wren", "002.Sea_Gull")


def test_the_test_fraction_reaches_the_reader(draw: Draw, tmp_path: Path) -> None:
    for i in range(40):
        draw(f"wren/{i}.jpg")
    assert open_dataset(tmp_path, test_fraction=0.0).splits == {"train": 40}
    assert 10 < open_dataset(tmp_path, test_fraction=0.5).splits["test"] < 30


def test_an_unknown_layout_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"layout 'class-folder' is unknown; did you mean class-folders.* pass one of embeddings, .*cub, ",
    ):
        open_dataset(tmp_path, layout="class-folder")
    with pytest.raises(ConfigError, match=r"layout 'imagenet' is unknown"):
        open_dataset(tmp_path, layout="imagenet")


def test_what_is_not_there_is_reported_with_near_names(draw: Draw, tmp_path: Path) -> None:
    draw("birds/wren/1.jpg")
    with pytest.raises(DataError, match=r"no folder or file .*brids; did you mean birds\?$"):
        open_dataset(tmp_path / "brids")
    with pytest.raises(DataError, match=r"no folder or file .*xyz; check the path$"):
        open_dataset(tmp_path / "xyz")
    with pytest.raises(DataError, match=r"no folder or file .*c: .*absent/b is not there either; check the path"):
        open_dataset(tmp_path / "absent" / "b" / "c")


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is empty; flip reads .*CUB-200-2011, .*train/<class>/\*"):
        open_dataset(tmp_path)


def test_what_no_layout_fits_is_reported_with_what_is_there(write: Write, tmp_path: Path) -> None:
    write("notes/a.txt", "x")
    write("b.txt", "x")
    with pytest.raises(DataError, match=r"no layout fits .*, which holds notes/, b.txt; flip reads .*CUB-200-2011"):
        open_dataset(tmp_path)


def test_hidden_files_alone_fit_no_layout(write: Write, tmp_path: Path) -> None:
    write(".DS_Store", "x")
    with pytest.raises(DataError, match="which holds hidden files only"):
        open_dataset(tmp_path)


def test_photos_without_classes_are_reported(draw: Draw, tmp_path: Path) -> None:
    draw("1.jpg")
    draw("2.jpg")
    with pytest.raises(
        DataError, match=r"holds 2 photos and no class folders; put the photos of each class in a folder"
    ):
        open_dataset(tmp_path)


def test_a_file_that_is_no_manifest_is_reported(draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1.jpg is no manifest; its name must end in one of .csv, .tsv"):
        open_dataset(draw("1.jpg"))
    with pytest.raises(DataError, match=r"1.jpg is a file, and cub is a layout of folders"):
        open_dataset(draw("1.jpg"), layout="cub")


@pytest.mark.parametrize(
    ("name", "advice"), [("birds.zip", "archives: unpack them"), ("birds.xlsx", "spreadsheets: save them as CSV")]
)
def test_other_files_are_named_with_what_to_do(write: Write, name: str, advice: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is no manifest; .* \({advice}\)"):
        open_dataset(write(name, "x"))


def test_a_folder_is_a_manifest_only_with_metadata(draw: Draw, tmp_path: Path) -> None:
    draw("wren/1.jpg")
    with pytest.raises(DataError, match=r"is a folder without metadata.csv, .*; pass the manifest file itself"):
        open_dataset(tmp_path, layout="manifest")


@pytest.mark.parametrize("inner", [["wren/1.jpg", "gull/2.jpg"], ["train/wren/1.jpg", "test/wren/2.jpg"]])
def test_a_dataset_one_folder_further_down_is_not_taken_for_a_class(
    draw: Draw, tmp_path: Path, inner: list[str]
) -> None:
    for path in inner:
        draw(f"birds/{path}")
    with pytest.raises(
        DataError, match=r"would be a single class, 'birds'; .* pass that one, or --layout class-folders"
    ):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, layout="class-folders").classnames == ("birds",)


def test_a_folder_that_may_not_be_read_is_reported(draw: Draw, tmp_path: Path) -> None:
    folder = draw("wren/1.jpg").parent
    draw("gull/1.jpg")
    folder.chmod(0)
    try:
        if any_can_read(folder):
            pytest.skip("this user may read everything")
        with pytest.raises(DataError, match=r"cannot read .*wren: Permission denied"):
            open_dataset(tmp_path)
    finally:
        folder.chmod(0o755)


def any_can_read(folder: Path) -> bool:
    try:
        list(folder.iterdir())
    except PermissionError:
        return False
    return True


def test_numbers_that_tell_classes_apart_stay_in_their_names(draw: Draw, write: Write, tmp_path: Path) -> None:
    draw("data/001.Red_Wren/1.jpg")
    draw("data/002.Red_Wren/1.jpg")
    assert open_dataset(tmp_path / "data").classnames == ("001.Red Wren", "002.Red Wren")
    names = write("names.txt", "House Wren\nMarsh Wren\n")
    assert open_dataset(tmp_path / "data", classnames=names).classnames == ("House Wren", "Marsh Wren")


def test_equal_names_are_allowed_and_said(cub: Cub, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """ImageNet has two cranes."""
    caplog.set_level("INFO", "flip")
    dataset = open_dataset(cub("CUB"), classnames=write("names.txt", "crane\ncrane\n"))
    assert dataset.classnames == ("crane", "crane")
    assert any("2 classes have the name 'crane'" in message for message in caplog.messages)


def test_names_by_their_order_are_shown_with_what_they_name(cub: Cub, write: Write) -> None:
    dataset = open_dataset(cub("CUB"), classnames=write("names.txt", "Wren\nGull\n"))
    assert (
        "names.txt names the classes by their order: 001.Red_Wren is Wren, ..., 002.Sea_Gull is Gull" in dataset.notes
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("Red Wren", "red-wren"), True),
        (("Redwren", "Red_Wren"), True),
        (("C", "C#"), False),
        (("Wren 1", "Wren 11"), False),
    ],
)
def test_names_that_differ_by_spelling_only_are_said(
    draw: Draw, tmp_path: Path, names: tuple[str, str], said: bool
) -> None:
    for name in names:
        draw(f"{name}/1.jpg")
    dataset = open_dataset(tmp_path)
    assert len(dataset.classnames) == 2
    assert any("differ by case, spaces or hyphens only" in note for note in dataset.notes) == said


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("names.txt", "\ufeffRotzaunkönig\r\nMöwe\r\n", ("Rotzaunkönig", "Möwe")),
        ("names.json", '["Wren", "Gull"]', ("Wren", "Gull")),
        ("names.json", '{"Sea Gull": "Gull"}', ("Red Wren", "Gull")),
        ("names.json", '{"002.Sea_Gull": "Gull", "Red Wren": "Wren"}', ("Wren", "Gull")),
        ("names.csv", 'class,name\n001.Red_Wren,"Wren, red"\n', ("Wren, red", "Sea Gull")),
        ("names.csv", "001.Red_Wren,Wren\n\nSea Gull,Gull\n", ("Wren", "Gull")),
        ("names.tsv", "001.Red_Wren\tWren\n", ("Wren", "Sea Gull")),
    ],
)
def test_classes_are_renamed(cub: Cub, write: Write, name: str, text: str, expected: tuple[str, str]) -> None:
    dataset = open_dataset(cub("CUB"), classnames=write(name, text))
    assert dataset.classnames == expected
    assert dataset.raw_names == ("001.Red_Wren", "002.Sea_Gull")
    assert dataset.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("names.txt", "Wren\n", r"names.txt has 1 names for 2 classes; write one per line for each"),
        ("names.txt", "Wren\n\nGull\n", r"names.txt has 3 names for 2 classes"),
        ("names.json", '["Wren", ""]', r"names.json has an empty name for class '002.Sea_Gull'"),
        (
            "names.json",
            '{"Sea Gul": "x"}',
            r"names.json names a class 'Sea Gul' that the data does not have; did you mean Sea",
        ),
        ("names.json", '{"Sea Gull": "x", "002.Sea_Gull": "y"}', r"names.json names class '002.Sea_Gull' twice"),
        ("names.json", '{"Sea Gull": 3}', r"names.json must be a JSON object of old name to new name, or a list"),
        ("names.json", "3", r"names.json must be a JSON object of old name to new name, or a list"),
        ("names.json", "{", r"names.json is not JSON"),
        ("names.csv", "Sea Gull,x,y\n", r"names.csv:1: 3 columns; it needs two: old name and new name"),
        ("names.csv", "Red Wern,x\nSea Gull,y\n", r"names.csv names a class 'Red Wern' that the data does not have"),
    ],
)
def test_bad_files_of_names_are_reported(cub: Cub, write: Write, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(cub("CUB"), classnames=write(name, text))


def test_an_absent_file_of_names_is_reported(cub: Cub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.txt cannot be read: No such file or directory"):
        open_dataset(cub("CUB"), classnames=tmp_path / "absent.txt")


def test_the_shared_birds_in_one_line(shared: Path) -> None:
    birds = open_dataset(shared / "data" / "birds")
    assert str(birds) == "cub: 1,701 photos, 30 classes, train 900, test 801, captions for 543"
    clean = open_dataset(shared / "data" / "birds-clean.jsonl")
    assert str(clean).startswith("manifest: 801 photos, 30 classes, train 396, test 405")


def test_without_a_name_the_environment_or_the_usual_folder_is_meant(tmp_path, squares, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLIP_DATA", raising=False)
    with pytest.raises(ConfigError, match="there is no FLIP_DATA and no data/birds"):
        open_dataset()
    monkeypatch.setenv("FLIP_DATA", str(squares))
    assert len(open_dataset()) == 48
    monkeypatch.delenv("FLIP_DATA")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "birds").symlink_to(squares)
    assert len(open_dataset()) == 48


def test_a_link_to_a_folder_that_it_lies_in_is_not_followed(squares: Path, tmp_path: Path) -> None:
    shutil.copytree(squares, tmp_path / "birds")
    before = open_dataset(tmp_path / "birds")
    for name, target in (("up", ".."), ("here", "."), ("root", "/")):
        (tmp_path / "birds" / "train" / "red_fox" / name).symlink_to(target)
        (tmp_path / "birds" / "train" / name).symlink_to(target)
    assert open_dataset(tmp_path / "birds").records == before.records
