"""flip hybrid and the few-shot protocol, from the command line."""

import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import one_line, read_json
from tests.conftest import write_squares


def run(flip, *arguments):
    return read_json(flip(*arguments))


def test_a_head_is_fitted_scored_and_says_how_it_chose(flip, squares, tmp_path):
    evaluation = run(flip, "hybrid", "--data", squares, "--head", "gda", "--predictions", tmp_path / "p.jsonl")
    assert evaluation["command"] == "hybrid"
    assert evaluation["top1"] > 90, "coloured squares are easy"
    assert "cross-validation" in json.dumps(evaluation["protocol"]["chosen"])
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert evaluation["top1"] == pytest.approx(100 * np.mean([row["label"] == row["truth"] for row in rows]))
    # Guo et al., equation 3, from the rows: 15 bins of confidence, and the gap between it and the accuracy in each.
    gaps = {}
    for row in rows:
        gaps.setdefault(math.ceil(15 * row["score"]), []).append((row["label"] == row["truth"]) - row["score"])
    assert evaluation["ece"] == pytest.approx(sum(abs(sum(bin)) for bin in gaps.values()) / len(rows))
    assert [b["n"] for b in evaluation["reliability"]] == [len(gaps[bin]) for bin in sorted(gaps)]
    assert [row["coverage"] for row in evaluation["coverage"]] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]


def test_save_then_load_names_photos_identically(flip, squares, photo, tmp_path):
    fitted = run(flip, "hybrid", "--data", squares, "--head", "linear", "--save", tmp_path / "head", photo)
    loaded = run(flip, "hybrid", "--load", tmp_path / "head", photo)
    assert loaded == fitted
    assert loaded["label"] == "red fox"
    evaluation = run(flip, "hybrid", "--load", tmp_path / "head", "--data", squares)
    assert evaluation["protocol"]["head"] == "linear"
    assert "already holds files" in one_line(flip("hybrid", "--data", squares, "--save", tmp_path / "head"), 1)


def test_loaded_heads_read_paths_from_stdin(flip, squares, photo, tmp_path):
    run(flip, "hybrid", "--data", squares, "--head", "gda", "--text", "none", "--save", tmp_path / "head")
    result = flip("hybrid", "--load", tmp_path / "head", "--reject", "0.999999", "-", stdin=f"{photo}\n/none.png\n")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows[0]["label"] is None
    assert rows[1]["error"] == "no such file"


def test_a_head_of_another_model_or_view_is_refused(flip, squares, photo, tmp_path, other_model):
    run(flip, "hybrid", "--data", squares, "--head", "gda", "--save", tmp_path / "head")
    refused = flip("hybrid", "--load", tmp_path / "head", "--model", other_model, photo)
    assert "was fitted on features of" in one_line(refused, 1)
    assert "--tta none" in one_line(flip("hybrid", "--load", tmp_path / "head", "--tta", "flip", photo), 1)


def test_few_shot_rows_have_means_over_draws(flip, squares, tmp_path):
    options = ["--shots", "1,2,all", "--seeds", "3", "--plot", tmp_path / "curve.png"]
    for arguments in (["hybrid", "--head", "gda"], ["knn"]):
        evaluation = run(flip, *arguments, "--data", squares, *options)
        assert [(row["shots"], row["seeds"]) for row in evaluation["shots"]] == [(1, 3), (2, 3), ("all", 1)]
        low, high = evaluation["shots"][1]["ci95"]
        assert low <= evaluation["shots"][1]["top1"] <= high
        assert evaluation["shots"][2]["ci95"] is None
        assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_more_shots_than_photos_are_said_and_taken_as_all(flip, squares):
    result = flip("knn", "--data", squares, "--shots", "9", "--seeds", "2")
    assert "9 shots: 4 classes have fewer training photos and give all they have" in result.stderr
    (row,) = json.loads(result.stdout)["shots"]
    assert (row["shots"], row["seeds"], row["ci95"]) == (9, 1, None)


def test_test_labels_change_no_fitted_parameter(flip, squares, tmp_path):
    """Give every test photo another label: what is fitted and saved stays the same, byte for byte."""
    names = sorted(p.name for p in (squares / "test").iterdir())
    other = dict(zip(names, names[1:] + names[:1], strict=True))
    for i in (0, 1):
        rows = ["path,label,split"]
        for file in sorted(squares.rglob("*.png")):
            split, label = file.parts[-3], file.parts[-2]
            rows.append(f"{file},{other[label] if i and split == 'test' else label},{split}")
        (tmp_path / f"{i}.csv").write_text("\n".join(rows) + "\n")
        evaluation = run(flip, "hybrid", "--data", tmp_path / f"{i}.csv", "--save", tmp_path / f"head{i}")
        assert (evaluation["top1"] > 50) == (i == 0)
    a, b = ((tmp_path / f"head{i}" / "head.safetensors").read_bytes() for i in (0, 1))
    assert a == b
    a, b = (json.loads((tmp_path / f"head{i}" / "head.json").read_text())["head"] for i in (0, 1))
    assert a == b


def captioned(tmp_path, squares):
    root = shutil.copytree(squares, tmp_path / "captioned")
    rows = [
        {"file_name": str(p.relative_to(root)), "text": f"it is {p.parent.name}"} for p in sorted(root.rglob("*.png"))
    ]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_captions_as_text_say_that_the_test_had_them(flip, squares, photo, tmp_path):
    root = captioned(tmp_path, squares)
    options = ["--head", "gda", "--text", "captions", "--save", tmp_path / "head"]
    evaluation = run(flip, "hybrid", "--data", root, *options)
    assert evaluation["protocol"]["test_captions"] is True
    assert "needs each photo's caption" in one_line(flip("hybrid", "--load", tmp_path / "head", photo), 1)
    again = run(flip, "hybrid", "--load", tmp_path / "head", "--data", root)
    assert again["top1"] == evaluation["top1"]


def test_generated_photos_join_training_only(flip, squares, tmp_path):
    generated = write_squares(tmp_path / "augmented" / "train", seed=9, photos=3).parent
    for arguments in (["hybrid", "--head", "gda"], ["knn", "-k", "3"]):
        result = flip(*arguments, "--data", squares, "--augmented", generated, "--augmented-weight", "0.5")
        assert "12 generated images join the 24 photos with weight 0.5" in result.stderr
        evaluation = json.loads(result.stdout)
        assert evaluation["n"] == 24
        assert evaluation["protocol"]["augmented_weight"] == 0.5
    weightless = run(flip, "knn", "--data", squares, "--augmented", generated, "--augmented-weight", "0", "-k", "36")
    assert weightless["n"] == 24


def test_a_photo_is_not_named_by_what_was_made_from_it(flip, tmp_path):
    """Noise cannot be told apart, but exact copies of the training photos would name each of them."""
    rng = np.random.default_rng(0)
    made = tmp_path / "made"
    rows = []
    for i in range(16):
        file = tmp_path / "noise" / ("test" if i % 4 == 3 else "train") / f"class{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(file)
        if i % 4 != 3:
            copy = made / "train" / file.parent.name / f"copy{i}.png"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            rows.append({"file_name": f"{file.parent.name}/{copy.name}", "source": str(file)})
    arguments = ["--data", tmp_path / "noise", "--augmented", made, "--augmented-weight", "1"]
    untold = run(flip, "knn", *arguments, "-k", "1:2")
    head = run(flip, "hybrid", *arguments, "--head", "gda")
    (made / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = run(flip, "knn", *arguments, "-k", "1:2")
    assert untold["sweep"][0]["train_top1"] == 100
    assert told["sweep"][0]["train_top1"] < 100
    shots = run(flip, "knn", *arguments, "-k", "1", "--shots", "1", "--seeds", "1")
    assert shots["protocol"]["train_photos"] == 4, "a photo of each class and its copy"
    sober = run(flip, "hybrid", *arguments, "--head", "gda")
    confidence = [sum(b["confidence"] * b["n"] for b in e["reliability"] if b["n"]) / e["n"] for e in (head, sober)]
    assert confidence[1] < confidence[0], "calibrated on photos whose copies it had seen, a head is sure of noise"


def test_text_votes_beside_neighbours(flip, squares):
    evaluation = run(flip, "knn", "--data", squares, "--text", "prompts")
    assert "leave-one-out on train" in evaluation["protocol"]["text_share"]


def test_what_a_user_gets_wrong_is_one_line(flip, squares, photo, tmp_path):
    lonely = write_squares(tmp_path / "lonely" / "all", photos=12).parent
    for name in ("blue_jay", "green_frog", "red_fox"):
        shutil.rmtree(lonely / "all" / name)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "head.json").write_text("{}")
    odd = write_squares(tmp_path / "odd" / "train", photos=1).parent
    (odd / "train" / "red_fox").rename(odd / "train" / "emu")
    for arguments, code, expected in [
        (["hybrid", "--data", squares, "--shots", "0"], 2, "'0' is no number of photos"),
        (["hybrid", "--data", squares, "--shots", "1,few"], 2, "'few' is no number of photos"),
        (["hybrid", "--data", squares, "--seeds", "0"], 2, "--seeds 0 is too small"),
        (["hybrid", "--data", squares, "--plot", "x.txt"], 2, "is no picture file"),
        (["hybrid", "--data", squares, "--head", "tree"], 2, "--head"),
        (["hybrid", "--data", squares, "--text", "captions"], 1, "24 of 24 photos have no caption"),
        (["hybrid", "--data", lonely / "all"], 1, "has one class"),
        (["hybrid", "--load", tmp_path / "none", photo], 1, "holds no head.json"),
        (["hybrid", "--load", tmp_path / "damaged", photo], 1, "cannot be read"),
        (["hybrid", "--load", tmp_path / "none", "--shots", "1"], 2, "--load takes a fitted head"),
        (["hybrid", "--data", squares, "--augmented", odd], 1, "has class 'emu', which is not among the 4 classes"),
        (["knn", "--data", squares, "--augmented", odd], 1, "has class 'emu', which is not among the 4 classes"),
        (["knn", "--data", squares, "--augmented-weight", "-1"], 2, "--augmented-weight -1 is negative"),
    ]:
        assert expected in one_line(flip(*arguments), code), arguments


def test_a_head_on_real_birds_is_far_above_chance(shared, flip, tmp_path, monkeypatch):
    """Four classes of the clean split, where chance is 25 %."""
    monkeypatch.setenv("FLIP_MODEL", str(shared / "models" / "flip-lit-b0"))
    rows = [json.loads(line) for line in (shared / "data" / "birds-clean.jsonl").read_text().splitlines()]
    few = {name: [] for name in sorted({row["label"] for row in rows})[:4]}
    for row in rows:
        kept = few.get(row["label"])
        if kept is not None and sum(r["split"] == row["split"] for r in kept) < 4:
            kept.append(row | {"path": str(shared / "data" / row["path"])})
    manifest = tmp_path / "few.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for kept in few.values() for row in kept))
    evaluation = run(flip, "hybrid", "--data", manifest, "--head", "gda", "--prompts", "bird")
    assert evaluation["n"] == 16
    assert evaluation["ci95"][0] > 50


def test_a_saved_head_is_not_scored_on_what_it_learned_from(flip, squares, tmp_path):
    assert flip("hybrid", "--data", squares, "--head", "gda", "--save", tmp_path / "head").exit_code == 0
    used = ("hybrid", "--data", squares, "--load", tmp_path / "head")
    line = one_line(flip(*used, "--split", "train"), 1)
    assert "was trained or chosen on 24 of the 24 photos of split 'train'" in line
    assert "was trained or chosen on 24 of the 48 photos of split 'all'" in one_line(flip(*used, "--split", "all"), 1)
    assert read_json(flip(*used))["n"] == 24


@pytest.mark.parametrize("command", [("knn",), ("hybrid", "--head", "gda")])
def test_training_photos_are_scored_by_what_did_not_see_them(flip, squares, command):
    result = read_json(flip(*command, "--data", squares, "--split", "train", "--format", "json"))
    assert result["n"] == 24
    assert result["protocol"]["training_photos_scored_by"] in ("leave-one-out", "out-of-fold")
    assert result["top5"] is None, "four classes have no top-5"
