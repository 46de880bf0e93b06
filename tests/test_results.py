"""What is reported can be read back."""

import csv
import io
import json
import math

import numpy as np
import pytest

from flip.errors import DataError
from flip.results import (
    PREDICTION_COLUMNS,
    Evaluation,
    Neighbor,
    Prediction,
    RowWriter,
    Run,
    calibration_report,
    predict_row,
    score_predictions,
    write_run,
)

NAMES = ("a", "b", "c")
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], np.float32)
LABELS = np.array([0, 1, 2, 2])


@pytest.fixture
def evaluation():
    return score_predictions(
        PROBABILITIES,
        LABELS,
        NAMES,
        command="knn",
        data="d",
        model="m",
        split="test",
        protocol={"k": np.int64(3), "chosen": {"C": (1.0, 2.0)}, "odd": math.nan},
        unreadable=1,
        details={"sweep": [{"k": 3, "top1": np.float32(75)}], **calibration_report(PROBABILITIES, LABELS, NAMES, 0.65)},
    )


def test_numbers_by_hand(evaluation):
    assert (evaluation.n, evaluation.classes, evaluation.top1, evaluation.mean_per_class) == (4, 3, 75.0, 250 / 3)
    assert evaluation.per_class[2] == {"label": "c", "n": 2, "top1": 50.0}
    assert evaluation.details["rejected"] == {"below": 0.65, "answered": 2, "coverage": 0.5, "top1": 100.0}
    assert str(evaluation) == "75.0 % (95 %: 30.1 to 95.4), n 4 (1 unreadable)"
    assert repr(evaluation) == f"<Evaluation of knn on d: {evaluation}>"


def test_an_evaluation_is_read_back_as_it_was(evaluation):
    text = json.dumps(evaluation.to_dict())
    back = Evaluation.from_dict(json.loads(text))
    assert back == evaluation
    assert back.to_dict() == evaluation.to_dict()
    assert json.loads(text)["sweep"] == [{"k": 3, "top1": 75.0}], "details stand beside the others"
    assert (json.loads(text)["command"], json.loads(text)["format"]) == ("knn", 1)


def test_what_is_no_evaluation_is_refused(evaluation):
    with pytest.raises(DataError, match="it has no .*top1"):
        Evaluation.from_dict({"command": "finetune"})
    with pytest.raises(DataError, match="format 2"):
        Evaluation.from_dict(evaluation.to_dict() | {"format": 2})
    before = {k: v for k, v in evaluation.to_dict().items() if k != "format"}
    assert Evaluation.from_dict(before) == evaluation, "results had no format at first"


def test_a_run_is_read_back(tmp_path, evaluation):
    rows = [
        predict_row("x.jpg", PROBABILITIES[0], NAMES, top=2, truth="a", neighbors=(Neighbor("n.jpg", "a", 0.5),)),
        Prediction("broken.jpg", error="no image"),
    ]
    write_run(tmp_path / "run", evaluation, rows, {"k": "3", "data": None}, "data-print", "model-print")
    run = Run.open(tmp_path / "run")
    assert run.evaluation == evaluation
    assert (run.data_fingerprint, run.model_fingerprint) == ("data-print", "model-print")
    assert run.config["k"] == "3"
    assert "torch" in run.versions
    first, second = run.rows()
    assert first["label"] == "a"
    assert first["neighbors"] == [{"path": "n.jpg", "label": "a", "score": 0.5}]
    assert second == {"path": "broken.jpg", "error": "no image"}
    for name in ("result.json", "config.json", "environment.json"):
        content = json.loads((tmp_path / "run" / name).read_text())
        assert (content["command"], content["format"]) == ("knn", 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", None, "has no result.json"),
        ("result.json", "{", "cannot be read"),
        ("result.json", "[]", "holds no object"),
        ("result.json", '{"format": 9}', "format 9"),
        ("environment.json", "{}", "damaged run"),
        ("config.json", None, "has no config.json"),
    ],
)
def test_a_damaged_run_is_one_line(tmp_path, evaluation, name, content, message):
    write_run(tmp_path / "run", evaluation, [], {}, "d", "m")
    file = tmp_path / "run" / name
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        Run.open(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_damaged_rows_are_one_line(tmp_path, evaluation):
    run = write_run(tmp_path / "run", evaluation, [], {}, "d", "m")
    (tmp_path / "run" / "predictions.jsonl").write_text('{"path": "a"}\n[1]\n')
    with pytest.raises(DataError, match="predictions.jsonl:[12] cannot be read"):
        list(run.rows())


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_rows_are_written_as_they_come(form):
    stream = io.StringIO()
    writer = RowWriter(stream, form, PREDICTION_COLUMNS)
    writer.write({"path": 'a,"b"', "label": None, "score": float("nan")})
    writer.write({"path": "c", "label": "x", "score": 0.5, "extra": 1})
    writer.close()
    text = stream.getvalue()
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert rows[0] == {"path": 'a,"b"', "label": "", "score": "", "truth": "", "error": ""}
    else:
        rows = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
        assert rows[0] == {"path": 'a,"b"', "label": None, "score": None}
    assert len(rows) == 2


def test_a_run_keeps_when_where_and_how_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/flip", "knn", "-k", "5", "--data", "two words"])
    evaluation = score_predictions(np.eye(3), np.arange(3), ["a", "b", "c"], split="test")
    made = {"device": "cpu", "precision": "bf16"}
    write_run(tmp_path / "run", evaluation, [Prediction("x.jpg", "a", 1.0)], {}, "d", "m", made)
    run = Run.open(tmp_path / "run")
    assert run.made["command_line"] == ["flip", "knn", "-k", "5", "--data", "two words"]
    assert run.made["precision"] == "bf16"
    assert {"date", "host", "system", "processor", "cores", "threads", "gpu", "cuda"} <= run.made.keys()
    assert {"python", "torch", "numpy", "scipy", "pillow", "diffusers", "transformers"} <= run.versions.keys()
    assert "versions" not in run.made
