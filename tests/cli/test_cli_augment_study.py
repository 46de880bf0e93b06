"""flip augment --study on a tiny model of the shape of Stable Diffusion and a tiny dual encoder."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flip.data.open import open_dataset
from flip.studies.extras import random_view
from tests.cli.conftest import Flip, one_line, read_json

QUICK = ("augment", "--study", "--ckpt", "tiny.ckpt", "--size", "16", "--steps", "2", "--shots", "1,all")
QUICKER = (*QUICK, "--seeds", "2", "--weights", "0.5,1", "--per-photo", "1")
ARMS = ("views", "text-to-image", "image-to-image")


@pytest.fixture
def cache(kept: Path) -> Path:
    return kept


@pytest.fixture(autouse=True)
def _folder(ckpt: Path, birds: Path, tmp_path: Path) -> None:
    """The test's folder holds data/birds and tiny.ckpt."""
    shutil.copy(ckpt, tmp_path / "tiny.ckpt")


def pictures(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*.png")}


def test_every_arm_has_as_many_pictures_and_the_table_every_condition(flip: Flip) -> None:
    (Path("data/birds") / "metadata.jsonl").write_text(
        json.dumps({"file_name": "train/red_fox/0.png", "text": "it runs"}) + "\n"
    )
    result = flip(*QUICKER, "--format", "json")
    found = read_json(result)
    assert found == json.loads(Path("study/study.json").read_text())
    assert (found["n"], found["classes"]) == (8, 4)
    assert "fitting 21 heads" in result.stderr
    assert found["protocol"]["strength"] == 0.7
    rows = found["study"]
    assert [(r["shots"], r["arm"], r["weight"]) for r in rows] == [
        (shots, arm, weight)
        for shots in (1, "all")
        for arm, weight in [("none", None), *((a, w) for a in ARMS for w in (0.5, 1.0))]
    ]
    assert [r["seeds"] for r in rows] == [2] * 7 + [1] * 7
    assert all(r["over_none_ci95"][0] <= r["over_none"] <= r["over_none_ci95"][1] for r in rows if r["weight"])
    assert Path("study/study.svg").read_text().startswith("<?xml")
    for arm in ARMS:
        made = open_dataset(Path("study") / arm)
        assert (made.splits, made.raw_names) == ({"train": 12}, open_dataset("data/birds").raw_names)
        # Each belongs to a photo of its own class, and is drawn from that photo's own words.
        lines = [json.loads(line) for line in (Path("study") / arm / "metadata.jsonl").read_text().splitlines()]
        assert len({line["photo"] for line in lines}) == 12
        assert all(Path(line["photo"]).parts[1] == Path(line["file_name"]).parts[1] for line in lines)
        texts = {line["photo"]: line["text"] for line in lines}
        assert texts.pop("train/red_fox/0.png") == "a photo of a red fox. it runs"
        assert "it runs" not in "".join(texts.values())


def test_a_second_run_makes_only_what_is_missing(flip: Flip) -> None:
    first = read_json(flip(*QUICKER, "--format", "json"))
    before = pictures(Path("study"))
    assert len(before) == 36
    for file in list(before)[::5]:
        (Path("study") / file).unlink()
    result = flip(*QUICKER, "--format", "csv")
    again = pictures(Path("study"))
    assert {f: b for f, (_, b) in again.items()} == {f: b for f, (_, b) in before.items()}
    assert sum(again[f][0] == before[f][0] for f in before) == 36 - len(list(before)[::5])
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert [float(r["top1"]) for r in rows] == pytest.approx([r["top1"] for r in first["study"]])
    # More of each photo: those that are there stay.
    more = flip(*QUICKER, "--per-photo", "2")
    assert "text-to-image: 12 of 24 images are there, 12 to make" in more.stderr
    # Other pictures are not mixed in; --overwrite leaves none of the old.
    refused = one_line(flip(*QUICKER, "--strength", "0.9"), 1)
    assert "image-to-image was begun with other settings: strength 0.9 (was 0.7)" in refused
    flip(*QUICKER, "--strength", "0.9", "--overwrite")
    assert len(pictures(Path("study"))) == 36


def test_curves_go_where_plot_says(flip: Flip) -> None:
    result = flip(*QUICKER, "--plot", "curves.png", "--head", "gda", "--format", "table", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "over views ci95" in result.stdout
    assert Image.open("curves.png").format == "PNG"
    assert Path("out/study.json").is_file()


def test_a_view_is_a_part_of_the_photo_and_the_same_every_time() -> None:
    x, y = np.meshgrid(np.arange(40), np.arange(30))
    photo = Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))
    mirrored = 0
    for seed in range(40):
        view, again = (np.asarray(random_view(photo, np.random.default_rng(seed))).astype(int) for _ in range(2))
        assert (view == again).all()
        assert 0.45 < view.shape[0] * view.shape[1] / 1200 <= 1
        across, down = np.diff(view[..., 0], axis=1), np.diff(view[..., 1], axis=0)
        assert np.unique(across) in (1, -1)
        assert np.unique(down) == 1
        mirrored += across[0, 0] == -1
    assert 8 < mirrored < 32


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["augment", "--study"], 2, "no --ckpt;"),
        ([*QUICK, "-o", "data"], 1, "data already holds files"),
        ([*QUICK, "-o", "tiny.ckpt"], 1, "tiny.ckpt is a file"),
        ([*QUICK, "--weights", "0.1,0"], 2, "--weights '0.1,0': '0' is no positive number"),
        ([*QUICK, "--weights", "some"], 2, "'some' is no positive number"),
        ([*QUICK, "--shots", "few"], 2, "--shots 'few'"),
        ([*QUICK, "--seeds", "0"], 2, "--seeds 0 is too small"),
        ([*QUICK, "--per-photo", "0"], 2, "--per-photo 0 is too small"),
        ([*QUICK, "--per-class", "3"], 2, "--study takes no --per-class"),
        ([*QUICK, "--filter", "clip:0.1"], 2, "--study takes no --filter"),
        ([*QUICK, "--plot", "curve.txt"], 2, "--plot curve.txt is no picture file"),
        ([*QUICK, "--steps", "1"], 2, "--strength 0.7 takes that share of --steps 1, and leaves none"),
        ([*QUICK, "--prompts", "captions"], 1, "photo 'train/black_cat/0.png' has no caption"),
        ([*QUICK, "--data", "data/birds/test", "--test-fraction", "0.01"], 1, "has no test photos to score"),
        (["augment", "--ckpt", "tiny.ckpt", "--weights", "1"], 2, "--weights belongs to a study; pass --study"),
    ],
)
def test_slips_are_one_line(flip: Flip, arguments: list[str], code: int, said: str) -> None:
    assert said in one_line(flip(*arguments), code)


def test_clip_itself_is_the_learner_and_captions_of_other_classes_are_an_arm(flip: Flip) -> None:
    photos = sorted(Path("data/birds/train").rglob("*.png"))
    rows = [
        {"file_name": file.relative_to("data/birds/train").as_posix(), "text": f"it is like {file.parent.name}"}
        for file in photos
    ]
    Path("data/birds/train/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = (*QUICK, "--shots", "1", "--seeds", "1", "--weights", "1", "--per-photo", "2")
    found = read_json(flip(*quick, "--learner", "finetune", "--arms", "views,shuffled", "--format", "json"))
    assert [(row["arm"], row["weight"]) for row in found["study"]] == [
        ("none", None),
        ("views", 1.0),
        ("shuffled", 1.0),
    ]
    assert found["protocol"]["learner"].startswith("CLIP fine-tuned")
    assert not Path("study/tuned").exists()
    lines = [json.loads(line) for line in Path("study/shuffled/metadata.jsonl").read_text().splitlines()]
    for line in lines:
        own = Path(line["photo"]).parent.name
        assert line["text"].startswith(f"a photo of a {own.replace('_', ' ')}. it is like ")
        assert not line["text"].endswith(own)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--arms", "views,pictures"], 2, "--arms 'views,pictures': 'pictures' is no kind of extra images; pass some"),
        (["--arms", "shuffled"], 1, "--arms shuffled needs captions of every training photo"),
    ],
)
def test_arms_that_cannot_be_made_are_one_line(flip: Flip, arguments: list[str], code: int, said: str) -> None:
    assert said in one_line(flip(*QUICKER, *arguments), code)
