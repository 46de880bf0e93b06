"""The command line as a user and a script meet it."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import one_line
from tests.conftest import write_squares


def test_no_arguments_prints_help_and_version_prints_the_version(flip):
    from flip import __version__

    assert "Commands:" in flip().stdout
    assert flip("--version").stdout == f"flip {__version__}\n"


def test_zeroshot_prints_the_contract_s_json(flip, squares):
    result = flip("zeroshot", "--data", squares)
    assert result.exit_code == 0, result.output
    evaluation = json.loads(result.stdout)
    assert evaluation["command"] == "zeroshot"
    assert (evaluation["n"], evaluation["classes"], evaluation["unreadable"]) == (24, 4, 0)
    assert {
        "top1",
        "top5",
        "mean_per_class",
        "ci95",
        "protocol",
        "per_class",
        "seconds",
        "data",
        "model",
        "split",
    } <= set(evaluation)
    assert evaluation["ci95"][0] <= evaluation["top1"] <= evaluation["ci95"][1]
    assert [row["label"] for row in evaluation["per_class"]] == ["black cat", "blue jay", "green frog", "red fox"]
    assert "split-folders" in result.stderr
    assert result.stderr.count("\n") == 1


def test_transductive_zeroshot_says_so_with_the_plain_number_beside_it(flip, squares, photo):
    plain = json.loads(flip("zeroshot", "--data", squares).stdout)
    evaluation = json.loads(flip("zeroshot", "--data", squares, "--transductive").stdout)
    assert evaluation["plain"]["top1"] == pytest.approx(plain["top1"])
    assert "without their labels" in evaluation["protocol"]["transductive"]
    assert "without them" in flip("zeroshot", "--data", squares, "--transductive", "--format", "table").stdout
    message = one_line(flip("zeroshot", "--data", squares, "--transductive", photo), 2)
    assert "--transductive needs many photos together" in message


def test_zeroshot_equals_the_direct_formula(flip, squares, tiny_model):
    import open_clip
    import torch
    from PIL import Image

    rows = [
        json.loads(line)
        for line in flip(
            "zeroshot", "--data", squares, "--precision", "fp32", *sorted(squares.rglob("*.png"))
        ).stdout.splitlines()
    ]
    network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tiny_model}")
    network.eval()
    names = ["black cat", "blue jay", "green frog", "red fox"]
    tokens = open_clip.get_tokenizer(f"local-dir:{tiny_model}")([f"a photo of a {name}." for name in names])
    with torch.inference_mode():
        images = network.encode_image(torch.stack([preprocess(Image.open(r["path"])) for r in rows]), normalize=True)
        texts = network.encode_text(tokens, normalize=True)
        expected = (network.logit_scale.exp() * images @ texts.T).softmax(dim=1)
    for row, probabilities in zip(rows, expected, strict=True):
        assert dict(row["top"]) == pytest.approx(dict(zip(names, probabilities.tolist(), strict=True)), abs=2e-3)


def test_knn_sweeps_k_and_says_how_it_was_chosen(flip, squares):
    evaluation = json.loads(flip("knn", "--data", squares).stdout)
    assert evaluation["protocol"]["k_chosen_by"] == "leave-one-out on train"
    assert [row["k"] for row in evaluation["sweep"]] == list(range(1, 21))
    assert sum(row["chosen"] for row in evaluation["sweep"]) == 1
    assert evaluation["top1"] > 90, "coloured squares are easy"
    fixed = json.loads(flip("knn", "--data", squares, "-k", "5").stdout)
    assert "sweep" not in fixed
    assert fixed["protocol"]["k"] == 5


def test_predictions_from_arguments_and_stdin_keep_the_order(flip, squares, photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("text")
    stdin = f"{photo}\n{broken}\n\n/nowhere.png\n"
    result = flip("knn", "--data", squares, squares / "test/blue_jay/1.png", "-", stdin=stdin)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [Path(row["path"]).name for row in rows] == ["1.png", "0.png", "broken.jpg", "nowhere.png"]
    assert rows[1]["label"] == "red fox"
    assert set(rows[1]) == {"path", "label", "score", "top"}
    assert rows[2] == {"path": str(broken), "error": rows[2]["error"]}
    assert rows[3]["error"] == "no such file"
    assert flip("knn", "--data", squares, "--strict", broken).exit_code == 3


def test_null_terminated_paths_may_hold_newlines(flip, squares, photo, tmp_path):
    odd = tmp_path / "a\nb.png"
    shutil.copy(photo, odd)
    result = flip("knn", "--data", squares, "-0", "-", stdin=f"{odd}\0{photo}\0")
    assert [json.loads(line)["path"] for line in result.stdout.splitlines()] == [str(odd), str(photo)]


def test_neighbors_are_listed_with_path_label_and_score(flip, squares, photo):
    row = json.loads(flip("knn", "--data", squares, "-k", "3", "--neighbors", photo).stdout)
    assert len(row["neighbors"]) == 3
    assert set(row["neighbors"][0]) == {"path", "label", "score"}
    assert row["neighbors"][0]["score"] >= row["neighbors"][2]["score"]
    assert (squares / row["neighbors"][0]["path"]).is_file()


def test_zeroshot_of_photos_needs_class_names_only(flip, photo, tmp_path):
    (tmp_path / "classes.txt").write_text("red fox\nblue jay\n")
    row = json.loads(flip("zeroshot", "--classes", "classes.txt", "--top", "1", photo).stdout)
    assert len(row["top"]) == 1
    assert row["label"] in ("red fox", "blue jay")


def test_reject_takes_the_label_of_unsure_rows(flip, squares, photo):
    row = json.loads(flip("zeroshot", "--data", squares, "--reject", "1", photo).stdout)
    assert row["label"] is None
    assert row["top"][0][1] == row["score"] < 1


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_every_format_of_evaluation_and_prediction(flip, squares, photo, form):
    evaluation = flip("zeroshot", "--data", squares, "--format", form).stdout
    predictions = flip("zeroshot", "--data", squares, "--format", form, photo, photo).stdout
    if form == "json":
        assert json.loads(evaluation)["n"] == 24
        assert len(json.loads(predictions)) == 2
    elif form == "jsonl":
        assert json.loads(evaluation)["n"] == 24
        assert [json.loads(line)["path"] for line in predictions.splitlines()] == [str(photo)] * 2
    elif form == "csv":
        assert next(csv.DictReader(io.StringIO(evaluation)))["n"] == "24"
        assert [row["path"] for row in csv.DictReader(io.StringIO(predictions))] == [str(photo)] * 2
    else:
        assert "named right" in evaluation
        assert "95 % interval" in evaluation
        assert predictions.count(str(photo)) == 2


def test_output_and_predictions_files(flip, squares, tmp_path):
    result = flip("zeroshot", "--data", squares, "-o", tmp_path / "out" / "r.json", "--predictions", tmp_path / "p.csv")
    assert result.stdout == ""
    assert json.loads((tmp_path / "out" / "r.json").read_text())["n"] == 24
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert len(rows) == 24
    assert {row["truth"] for row in rows} == {"black cat", "blue jay", "green frog", "red fox"}


def test_run_folder_holds_what_it_takes_to_repeat_a_number(flip, squares, tmp_path):
    assert flip("knn", "--data", squares, "--run", tmp_path / "run").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "config.json",
        "environment.json",
        "predictions.jsonl",
        "result.json",
    ]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["k"] == "auto"
    assert "torch" in json.loads((tmp_path / "run" / "environment.json").read_text())["versions"]
    assert "already holds files" in one_line(flip("knn", "--data", squares, "--run", tmp_path / "run"), 1)


def test_embed_twice_embeds_once_and_writes_a_table_that_data_reads_back(flip, squares, tmp_path):
    first = json.loads(flip("embed", "--data", squares, "-o", tmp_path / "table").stdout)
    assert (first["n"], first["embedded"], first["cached"]) == (48, 48, 0)
    assert first["device"] == "cpu"
    again = json.loads(flip("embed", "--data", squares).stdout)
    assert (again["embedded"], again["cached"]) == (0, 48)
    assert again["device"] == "none", "nothing was encoded"
    evaluation = json.loads(flip("knn", "--data", tmp_path / "table", "-k", "3").stdout)
    assert evaluation["top1"] == json.loads(flip("knn", "--data", squares, "-k", "3").stdout)["top1"]
    assert "already holds files" in one_line(flip("embed", "--data", squares, "-o", tmp_path / "table"), 1)


def test_a_table_of_another_model_is_refused(flip, squares, tmp_path, other_model):
    flip("embed", "--data", squares, "-o", tmp_path / "table")
    message = one_line(flip("zeroshot", "--data", tmp_path / "table", "--model", other_model), 1)
    assert "was made by" in message


def test_an_unreadable_photo_never_stops_a_run(flip, squares, tmp_path):
    root = shutil.copytree(squares, tmp_path / "data")
    (root / "test" / "red_fox" / "0.png").write_text("text")
    (root / "train" / "red_fox" / "0.png").write_bytes(b"")
    result = flip("knn", "--data", root, "--predictions", tmp_path / "p.jsonl")
    assert result.exit_code == 0
    evaluation = json.loads(result.stdout)
    assert (evaluation["n"], evaluation["unreadable"]) == (23, 1)
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 24
    assert "2 of 48 photos cannot be read" in result.stderr
    assert flip("knn", "--data", root, "--strict").exit_code == 3


def test_quiet_says_nothing_on_stderr(flip, squares):
    assert flip("zeroshot", "--data", squares, "-q").stderr == ""


def test_data_info_and_default_data(flip, squares, tmp_path):
    shutil.copytree(squares, tmp_path / "data" / "birds")
    info = json.loads(flip("data", "info").stdout)
    assert (info["layout"], info["photos"], info["classes"]) == ("split-folders", 48, 4)


def test_models_lists_names(flip):
    rows = [json.loads(line) for line in flip("models").stdout.splitlines()]
    assert any(row["name"] == "ViT-B-32/openai" for row in rows)


def test_what_a_user_gets_wrong_is_one_line(flip, squares, tmp_path, photo):
    (tmp_path / "empty").mkdir()
    prompts = tmp_path / "p.txt"
    prompts.write_text("a photo\n")
    alone = write_squares(tmp_path / "alone" / "train", photos=1).parent
    (alone / "test" / "emu").mkdir(parents=True)
    shutil.copy(photo, alone / "test" / "emu" / "0.png")
    (tmp_path / "m.csv").write_text("path,kind\na.jpg,b\n")
    for arguments, code, expected in [
        (["zeroshot"], 2, "pass --data"),
        (["zeroshot", "--data", tmp_path / "emty"], 1, "empty"),
        (["zeroshot", "--data", tmp_path / "empty"], 1, "empty"),
        (["zeroshot", "--data", squares, "--prompts", prompts], 1, "has no {}"),
        (["zeroshot", "--data", squares, "--model", "ViT-B-32/opnai"], 1, "did you mean ViT-B-32/openai"),
        (["zeroshot", "--data", squares, "--split", "tset"], 1, "it has train (24), test (24)"),
        (["zeroshot", "--data", squares, "--reject", "2"], 2, "not a probability"),
        (["zeroshot", "--data", squares, "--batch-size", "0"], 2, "--batch-size 0 is too small"),
        (["knn", "--data", alone], 1, "no training photo for class 'emu'"),
        (["knn", "--data", squares, "-k", "25"], 1, "k=25 exceeds the 24 images in the index; pass -k 24 or fewer"),
        (["knn", "--data", squares, "-k", "none"], 2, "-k 'none' is not a number"),
        (["knn", "--data", squares, "--temperature", "0"], 2, "--temperature 0 is not positive"),
        (["knn", "--data", tmp_path / "m.csv"], 1, "label"),
        (["knn", "--data", squares, "--vote", "loud"], 2, "--vote"),
        (["knn", "--data", squares, "--device", "cuda"], 1, "--device cuda is not on this machine"),
        (["knm"], 2, "No such command"),
        (["embed", "--data", squares, "-o", photo], 1, "is a file"),
    ]:
        assert expected in one_line(flip(*arguments), code), arguments


def test_debug_shows_the_traceback(flip, squares, monkeypatch):
    monkeypatch.setenv("FLIP_DEBUG", "1")
    from flip.errors import ConfigError

    assert isinstance(flip("knn", "--data", squares, "-k", "99").exception, ConfigError)


def run_flip(arguments, tiny_model, cache, **options):
    environment = os.environ | {"FLIP_MODEL": str(tiny_model), "FLIP_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flip", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


def test_a_closed_pipe_ends_quietly(squares, tiny_model, tmp_path):
    paths = [*sorted(squares.rglob("*.png"))] * 4
    process = run_flip(
        ["zeroshot", "--data", squares, "-q", "--batch-size", "1", *paths], tiny_model, tmp_path, stdout=subprocess.PIPE
    )
    assert json.loads(process.stdout.readline())["path"] == str(paths[0])
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""


def test_ctrl_c_keeps_what_was_finished_and_exits_130(squares, tiny_model, tmp_path):
    process = run_flip(
        ["zeroshot", "--data", squares, "--batch-size", "2", "-"],
        tiny_model,
        tmp_path / "cache",
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    )
    photos = sorted(squares.rglob("*.png"))
    # Three batches fill what is read ahead; then the first row comes although stdin stays open.
    process.stdin.write("".join(f"{p}\n" for p in photos[:6]))
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["path"] == str(photos[0])
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read().strip().splitlines()[-1].startswith("flip: interrupted")
    parts = list((tmp_path / "cache").glob("*/images/*.parquet"))
    assert len(parts) == 1


def test_a_failed_run_leaves_the_rows_of_the_last_one(flip, squares, tmp_path, photo, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    assert flip("knn", "--data", squares, "-o", rows, photo).exit_code == 0
    before = rows.read_text()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    from flip.results import RowWriter

    monkeypatch.setattr(RowWriter, "write", fail)
    assert "No space left" in one_line(flip("knn", "--data", squares, "-o", rows, photo), 1)
    assert rows.read_text() == before


def test_rows_go_through_a_device(flip, squares, photo):
    assert flip("knn", "--data", squares, "-o", "/dev/null", photo).exit_code == 0
    assert "/dev/full cannot be written" in one_line(flip("knn", "--data", squares, "-o", "/dev/full", photo), 1)
    assert "/dev/full cannot be written" in one_line(flip("knn", "--data", squares, "-o", "/dev/full"), 1)


def test_predictions_for_a_spreadsheet_a_sheet_and_folders(flip, squares, tmp_path):
    flip_to = (
        "--predictions",
        tmp_path / "p.csv",
        "--sheet",
        tmp_path / "s.png",
        "--copy-to",
        tmp_path / "sorted",
        "--top",
        "2",
    )
    result = flip("knn", "--data", squares, "--format", "json", *flip_to)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert list(rows[0]) == ["path", "label", "score", "label2", "score2", "truth", "error", "link"]
    assert len(rows) == 24
    assert Path(rows[0]["link"].removeprefix("file://")).is_file()
    with Image.open(tmp_path / "s.png") as sheet:
        assert min(sheet.size) > 100
    copied = [file for file in (tmp_path / "sorted").rglob("*") if file.is_file()]
    assert len(copied) == 24
    named = flip("knn", "--data", squares, "--format", "csv", "--top", "3", squares / "test" / "red_fox")
    assert named.stdout.splitlines()[0] == "path,label,score,label2,score2,label3,score3,truth,error"
    assert len(named.stdout.splitlines()) == 7, "a folder stands for its photos"
