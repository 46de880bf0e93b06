"""Commands on tars: what they do with photos in folders they do with photos in tars."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import one_line, read_json
from tests.data.tar_files import png, write_tar

pytest.importorskip("webdataset")


@pytest.fixture
def tars(birds: Path, tmp_path: Path) -> Path:
    """The photos of ``birds`` in two tars, one for each split."""
    for split in ("train", "test"):
        members = {}
        for photo in sorted((birds / split).rglob("*.png")):
            key = f"{photo.parent.name}-{photo.stem}"
            members |= {f"{key}.png": photo.read_bytes(), f"{key}.cls": photo.parent.name.encode()}
        write_tar(tmp_path / "tars" / f"{split}-0.tar", members)
    return tmp_path / "tars"


def test_tars_are_scored_as_the_folders_that_they_were_made_of(flip, birds, tars):
    here, there = (read_json(flip("knn", "--data", data)) for data in (birds, tars))
    assert {name: there[name] for name in ("top1", "n", "per_class")} == {
        name: here[name] for name in ("top1", "n", "per_class")
    }


def test_photos_in_tars_are_drawn_copied_and_shown(flip, tars, tmp_path):
    result = flip("knn", "--data", tars, "--sheet", "sheet.png", "--copy-to", "sorted", "--run", "run", "--link")
    assert result.exit_code == 0, result.output
    copies = list((tmp_path / "sorted").rglob("*.png"))
    assert len(copies) == 8
    assert all(copy.is_file() and not copy.is_symlink() for copy in copies)
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert flip("report", "run", "-o", "page.html").exit_code == 0
    # WebP files in base64.
    assert (tmp_path / "page.html").read_text().count("UklGR") >= 8


def test_a_check_reads_every_photo_of_a_pattern(flip, tars):
    checked = read_json(flip("data", "check", tars / "{train,test}-{0..0}.tar", "--format", "json"))
    assert checked["photos"] == 20
    counts = {check["check"]: check["count"] for check in checked["checks"]}
    assert counts["tiny"] == 20
    assert counts["unreadable"] == 0


def test_a_pattern_of_tars_that_are_not_there_is_one_line(flip, tars):
    assert "test-3.tar, one of the 4" in one_line(flip("knn", "--data", tars / "test-{3..6}.tar"), 1)


@pytest.mark.parametrize(
    "members",
    [
        {"a/" * 20_000 + "z.png": png()},  # left out: a sample without a class
        {"b" * 100_000: b""},  # left out: a file without an extension
        {"c/" * 20_000 + "z.png": png(), "c/" * 20_000 + "z.json": b"?"},  # also a notice on the file
    ],
)
def test_lines_on_long_names_are_short_and_the_data_keeps_the_names(flip, tmp_path, members):
    members = {"x.png": png(), "x.cls": b"wren", **members}
    result = flip("data", "info", "--data", write_tar(tmp_path / "x.tar", members), "--format", "json")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert any("the first x.tar/" in line for line in lines)
    assert max(map(len, lines)) < 400
    assert any(len(left["first"]) > 20_000 for left in read_json(result)["left_out"])


@pytest.mark.parametrize("named", ["train-0.tar", "./train-0.tar", ".", "{train,test}-0.tar", "./../tars"])
def test_tars_are_named_from_where_one_is(flip, tars, monkeypatch, named):
    monkeypatch.chdir(tars)
    made = read_json(flip("embed", "--data", named))
    assert made["n"] == (12 if "train-0" in named else 20)
    assert made["unreadable"] == 0


@pytest.mark.parametrize(("suffix", "cut"), [(".cls", 1), (".cls", 4), (".txt", 3), (".json", 5)])
def test_half_a_label_or_caption_is_none(flip, tmp_path, suffix, cut):
    text = b'{"label": "gull"}' if suffix == ".json" else b"a gull"
    members = [("0.png", png()), ("0.cls", b"wren"), ("1.png", png()), ("1.cls", b"gull"), ("2.png", png())]
    write_tar(tmp_path / "x.tar", [*members, (f"2{suffix}", text)])
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: whole.rindex(text) + len(text) - cut])
    told = read_json(flip("data", "info", tmp_path / "x.tar", "--format", "json"))
    assert (told["photos"], told["classes"]) == (2, 2)
    assert any("cut off or damaged" in note for note in told["notes"])


LABELLED = (("png", png()), ("cls", b"wren"))


@pytest.mark.parametrize("own", ["__x__/a.png", "__x__"])
def test_the_library_s_own_files_are_left_out_by_its_rule(flip, tmp_path, own):
    kept = [(f"{key}.{suffix}", data) for key in ("__y__", "w/__z__", "a") for suffix, data in LABELLED]
    write_tar(tmp_path / "x.tar", [*kept, (own, png())])
    assert read_json(flip("data", "info", tmp_path / "x.tar", "--format", "json"))["photos"] == 3
