"""Atomic writes and output folders."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading

import pytest

from flip import files
from flip.errors import ConfigError
from flip.files import claim_folder, folder_aside, require_same_key, write_json, write_text, write_whole, written_aside

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def asides(folder):
    return [path for path in folder.iterdir() if path.name.startswith(files.ASIDE_PREFIX)]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "result.json"
    write_json(file, {"a": float("nan"), "b": (1, 2)})
    assert json.loads(file.read_text()) == {"a": None, "b": [1, 2]}
    with contextlib.suppress(RuntimeError), written_aside(file) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert json.loads(file.read_text())["b"] == [1, 2]
    assert not asides(file.parent)


def test_the_mode_follows_the_umask(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "t.json", tmp_path / "link.json"
    target.write_text("{}")
    link.symlink_to(target)
    write_json(link, {"a": 1})
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"a": 1}


def test_a_fifo_is_written_through(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    write_text(fifo, "through")
    reader.join(10)
    assert read == ["through"]
    assert not fifo.is_file()


def test_a_full_device_is_one_line():
    with pytest.raises(ConfigError, match="/dev/full cannot be written"):
        write_text(files.Path("/dev/full"), "x" * 100_000)


@pytest.mark.parametrize(
    ("name", "content"),
    [("photo.jpg", b"\xff\xd8\xff\xe0" + b"\0" * 9), ("photo.png", PNG), ("table.parquet", b"PAR1" + b"\1" * 9)],
)
def test_text_never_replaces_another_kind(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="is not replaced"):
        write_text(file, "path,label\n")
    assert file.read_bytes() == content
    assert not asides(tmp_path)


def test_text_replaces_text_and_empty_files(tmp_path):
    for content in ("", "old", "ä" * 5000):
        (tmp_path / "a.csv").write_text(content)
        write_text(tmp_path / "a.csv", "new")
        assert (tmp_path / "a.csv").read_text() == "new"


def test_what_a_killed_process_left_is_removed_and_a_living_one_keeps_its_own(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from flip.files import written_aside\n"
        "with written_aside(Path(sys.argv[1])) as aside: aside.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=False)
    assert len(asides(tmp_path)) == 1
    with written_aside(tmp_path / "b.txt") as own:
        own.write_text("b")
        write_text(tmp_path / "a.txt", "whole")
        assert asides(tmp_path) == [own]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_a_folder_is_replaced_when_it_is_whole(tmp_path):
    folder = tmp_path / "model"
    with folder_aside(folder, durable=True) as aside:
        (aside / "weights").write_text("1")
    with contextlib.suppress(RuntimeError), folder_aside(folder) as aside:
        (aside / "weights").write_text("2")
        raise RuntimeError
    assert (folder / "weights").read_text() == "1"
    assert not asides(tmp_path)


def test_a_folder_is_claimed_once(tmp_path):
    folder = tmp_path / "out"
    assert claim_folder(folder, "mark.json") is False
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already holds files"):
        claim_folder(folder, "mark.json")
    assert claim_folder(folder, "mark.json", overwrite=True) is False
    (folder / "mark.json").write_text("{}")
    assert claim_folder(folder, "mark.json") is True
    with pytest.raises(ConfigError, match="already holds files"):
        claim_folder(folder)
    with pytest.raises(ConfigError, match="--run .* is a file"):
        claim_folder(folder / "notes.txt", flag="--run")
    assert (folder / "notes.txt").read_text() == "mine"


def test_every_difference_of_a_run_is_named(tmp_path):
    require_same_key(tmp_path, {"lr": 0.1, "data": "a", "old": 1}, {"lr": 0.1, "data": "a"}, "…")
    with pytest.raises(ConfigError, match=r"lr 0.2 \(was 0.1\), weight-decay 1 \(was None\); pass the same"):
        require_same_key(tmp_path, {"lr": 0.1}, {"lr": 0.2, "weight_decay": 1}, "pass the same")


APPENDING = """
import sys
from flip.results import RowWriter
writer = RowWriter(sys.stdout, sys.argv[1], ["path", "label"])
for i in range(60):
    writer.write({"path": f"{sys.argv[2]}-{i}", "label": sys.argv[2] * 70_000})
"""


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_rows_that_processes_append_to_one_file_stay_whole_lines(tmp_path, form):
    """Also rows that are longer than any buffer."""
    with (tmp_path / "rows").open("a") as shared:
        command = [sys.executable, "-c", APPENDING, form]
        started = [subprocess.Popen([*command, name], stdout=shared) for name in "abc"]
        assert [process.wait() for process in started] == [0, 0, 0]
    lines = (tmp_path / "rows").read_text().splitlines()
    if form == "csv":
        rows = [line.split(",") for line in lines if line != "path,label"]
    else:
        rows = [(row["path"], row["label"]) for row in map(json.loads, lines)]
    assert sorted(path for path, _ in rows) == sorted(f"{name}-{i}" for name in "abc" for i in range(60))
    assert all(label == path[0] * 70_000 for path, label in rows)


@pytest.mark.parametrize("text", ["a\n", "é\U0001f426\n", "x" * 100_000 + "\n"])
def test_what_is_written_at_once_stands_in_order_with_what_was_buffered(tmp_path, text):
    with (tmp_path / "f").open("w", encoding="utf-8") as stream:
        stream.write("before\n")
        write_whole(stream, text)
        stream.write("after\n")
    assert (tmp_path / "f").read_text(encoding="utf-8") == f"before\n{text}after\n"
    memory = io.StringIO()
    write_whole(memory, text)
    assert memory.getvalue() == text
