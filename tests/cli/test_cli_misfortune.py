"""Full disks, closed streams, FIFOs and files that are not what they should be: one line each, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import one_line, read_json, read_rows

LIMITED = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); sys.argv[:2] = ['flip'];"
    "from flip.cli.app import main; main()"
)


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run flip in a process of its own."""
    command = [sys.executable, "-m", "flip", *map(str, arguments)]
    return subprocess.run(command, capture_output="stdout" not in options, text=True, timeout=120, **options)


def limited(size: int, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run flip with a limit on the size of a file: the disk is full."""
    command = [sys.executable, "-c", LIMITED, str(size), *map(str, arguments)]
    # Python would write its compiled files cut off, and read them as broken ones in the next run.
    surroundings = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=surroundings)


def last_line(result: subprocess.CompletedProcess[str], code: int = 1) -> str:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("flip: ")
    assert len(line) < 400
    return line


@pytest.mark.parametrize(
    "output",
    [
        *(
            ("-o", "old.json"),
            ("--predictions", "old.json"),
            ("-o", "old.json", "PHOTO"),
            ("--sheet", "new.png", "PHOTO"),
        ),
        *(("--run", "new"), ("--plot", "new.png")),
    ],
    ids=" ".join,
)
def test_a_full_disk_is_one_line_and_what_was_there_stays(
    flip: Any, squares: Path, photo: Path, output: tuple[str, ...]
) -> None:
    read_json(flip("knn", "--data", squares))
    Path("old.json").write_text("old\n")
    given = [photo if a == "PHOTO" else a for a in output]
    line = last_line(limited(100, "knn", "--data", squares, *given))
    assert "File too large" in line
    assert Path("old.json").read_text() == "old\n"
    assert not Path("new.png").exists()
    assert not [path for path in Path.cwd().rglob("*") if path.name.startswith(".flip-tmp-")]
    assert not (Path("new") / "result.json").exists()


@pytest.mark.parametrize(
    "made", [("hybrid", "--head", "gda", "--save"), ("embed", "-o"), ("finetune", "--epochs", "1", "-o")]
)
def test_a_full_disk_leaves_no_half_model_or_table(flip: Any, squares: Path, made: tuple[str, ...]) -> None:
    read_json(flip("knn", "--data", squares))
    command, *rest = made
    last_line(limited(1000, command, "--data", squares, *rest, "new"))
    kept = [path for path in Path("new").rglob("*") if path.suffix in (".safetensors", ".parquet")]
    assert kept == []


@pytest.mark.parametrize(
    ("drawing", "size"),
    [
        (("generate", "a wren", "-n", "2", "-o", "new"), 100),
        (("generate", "a wren", "-n", "1", "-o", "new", "--save-as", "saved"), 1000),
        (("augment", "--data", "birds", "--per-class", "1", "--filter", "none", "-o", "new"), 100),
        (("augment", "--study", "--data", "birds", "--shots", "1", "--head", "gda", "--steps", "2", "-o", "new"), 100),
        (
            ("finetune", "--target", "diffusion", "--data", "birds", "--epochs", "1", "--size", "64x64", "-o", "new"),
            3000,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_a_full_disk_while_pictures_are_drawn_is_one_line(
    flip: Any, squares: Path, ckpt: Path, drawing: tuple[str, ...], size: int
) -> None:
    read_json(flip("knn", "--data", squares))
    command, *rest = [str(squares) if a == "birds" else a for a in drawing]
    steps = () if "finetune" in drawing or "--steps" in drawing else ("--steps", "1")
    line = last_line(limited(size, command, "--ckpt", ckpt, *steps, *rest))
    assert "File too large" in line
    assert "unexpected" not in line
    assert not [path for path in Path.cwd().rglob("*") if path.name.startswith(".flip-tmp-")]
    assert not Path("saved/model_index.json").exists()


def test_a_full_stdout_is_one_line(flip: Any, squares: Path, photo: Path) -> None:
    read_json(flip("knn", "--data", squares))
    for given in (("knn", "--data", squares), ("knn", "--data", squares, photo), ("--help",), ("models",)):
        with Path("/dev/full").open("w") as full:
            result = run(*given, stdout=full, stderr=subprocess.PIPE)
        assert "No space left on device" in last_line(result)


@pytest.mark.parametrize(
    ("closed", "given", "said"),
    [
        (">&-", (), "results cannot be written"),
        ("<&-", ("-",), "stdin, which is closed"),
        (">&- <&- 2>&-", (), None),
        (">&- <&-", ("-o", "out.json"), None),
    ],
)
def test_closed_streams(flip: Any, squares: Path, closed: str, given: tuple[str, ...], said: str | None) -> None:
    read_json(flip("knn", "--data", squares))
    command = " ".join([sys.executable, "-m", "flip", "knn", "--data", str(squares), *given, closed])
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    if said is not None:
        assert said in last_line(result)
    else:
        assert result.returncode == (0 if given else 1)
    if given == ("-o", "out.json"):
        assert json.loads(Path("out.json").read_text())["n"] == 24


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}])
def test_streams_that_hold_no_utf_8(flip: Any, squares: Path, photo: Path, settings: dict[str, str]) -> None:
    read_json(flip("knn", "--data", squares))
    odd = photo.parent.parent.parent / os.fsdecode(b"\xe9 \xc3\xa9.png")
    shutil.copy(photo, odd)
    try:
        result = run("knn", "--data", squares, odd, env={**os.environ, **settings})
        table = run("knn", "--data", squares, "--format", "table", odd, env={**os.environ, **settings})
    finally:
        odd.unlink()
    assert result.returncode == table.returncode == 0, result.stderr + table.stderr
    assert json.loads(result.stdout)["path"] == str(odd)


def test_what_is_no_plain_file_is_a_row(flip: Any, squares: Path, photo: Path) -> None:
    os.mkfifo("f.png")
    Path("l.png").symlink_to("f.png")
    Path("itself.png").symlink_to("itself.png")
    rows = read_rows(flip("zeroshot", "--data", squares, "f.png", "l.png", "/dev/zero", photo))
    assert ["error" in row for row in rows] == [True, True, True, False]
    loop = flip("zeroshot", "--data", squares, "itself.png", photo)
    assert loop.exit_code == 1
    assert len(loop.stdout.splitlines()) == 2


def test_what_is_no_plain_file_in_a_folder_is_a_row(flip: Any, birds: Path) -> None:
    os.mkfifo(birds / "test" / "red_fox" / "f.png")
    (birds / "test" / "red_fox" / "itself.png").symlink_to("itself.png")
    (birds / "test" / "blue_jay" / "zero.png").symlink_to("/dev/zero")
    evaluation = read_json(flip("zeroshot", "--data", birds, "--predictions", "p.jsonl"))
    assert evaluation["unreadable"] == 3
    rows = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    assert sum("error" in row for row in rows) == 3
    assert flip("data", "check", birds).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--data", "x.parquet"), ("--data", "x.csv"), ("--classes", "x.csv", "PHOTO"), ("--groups", "x.csv")),
        *(("--subset", "x.csv"), ("--classnames", "x.csv"), ("--prompts", "x.csv"), ("--model", "x.csv")),
    ],
    ids=" ".join,
)
def test_a_fifo_that_nobody_writes_to_is_one_line(
    flip: Any, squares: Path, photo: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flip.reading.PATIENCE", 0.1)
    os.mkfifo("x.parquet")
    os.mkfifo("x.csv")
    given = [photo if a == "PHOTO" else a for a in arguments]
    data = () if arguments[0] in ("--data", "--classes") else ("--data", squares)
    assert "x." in one_line(flip("zeroshot", *data, *given), 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", 'path,label\n"a.png,x\nb.png,y\n', "x.csv:2: a quote that begins in this row is never closed"),
        ("x.csv", "path,label,label\na.png,x,y\n", "the column 'label' twice"),
        ("x.csv", "path,label\n" + "a" * 200_000 + ",x\n", "x.csv:2: field larger than field limit"),
        ("x.jsonl", '{"path": "a.png", "label": "x", "path": "b.png"}\n', "x.jsonl:1: not JSON: the key 'path'"),
        ("x.jsonl", '{"path": ' + "[" * 100_000, "x.jsonl:1: not JSON: it is nested too deep"),
        ("x.jsonl", '{"path": "a\\u0000b.png", "label": "x"}\n', "x.jsonl:1: no file 'a\\x00b.png'"),
        ("x.jsonl", '{"path": "\\ud800.png", "label": "x"}\n', "x.jsonl:1: no file '\\ud800.png'"),
    ],
)
def test_odd_tables_are_one_line(flip: Any, name: str, content: str, said: str) -> None:
    Path(name).write_text(content)
    assert said in one_line(flip("zeroshot", "--data", name), 1)


def test_a_truncated_picture_in_a_generated_set_ends_no_run(flip: Any, squares: Path, ckpt: Path) -> None:
    draw = ("augment", "--data", squares, "--ckpt", ckpt, "--steps", "1", "--per-class", "1", "--filter", "none")
    assert flip(*draw).exit_code == 0
    drawn = sorted(Path("augmented").rglob("*.png"))
    drawn[0].write_bytes(drawn[0].read_bytes()[:200])
    Path("augmented/rejected.jsonl").write_bytes(b"\xff\xfe half a line")
    again = flip(*draw)
    assert again.exit_code == 0, again.output
    read_json(flip("hybrid", "--data", squares, "--head", "gda", "--augmented", "augmented"))
