"""Reading what others wrote: nothing is waited for, and JSON holds no surprises."""

import os
import socket
import threading
import zipfile

import pytest

from flip import reading
from flip.errors import DataError, FlipError
from flip.files import json_text, write_text
from flip.reading import open_plain, parse_json, read_bytes, read_json, require_stored, what_is
from flip.results import RowWriter, csv_cells
from flip.shown import MOST, one_line, shown


def special_files(folder):
    os.mkfifo(folder / "fifo")
    (folder / "to-fifo").symlink_to("fifo")
    (folder / "itself").symlink_to("itself")
    (folder / "folder").mkdir()
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(folder / "socket"))
    return [folder / name for name in ("fifo", "to-fifo", "itself", "folder", "socket", "\0")]


def test_only_plain_files_are_opened_and_nothing_is_waited_for(tmp_path):
    for file in special_files(tmp_path):
        with pytest.raises(OSError, match=r"it is a|symbolic links|no name|No such device"):
            open_plain(file)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(OSError, match="it is a device"):
            open_plain(device)
    assert what_is(tmp_path / "fifo") == what_is(tmp_path / "to-fifo") == "a FIFO"
    assert what_is(tmp_path / "itself") == "a link to itself"
    assert what_is(tmp_path / "folder") == what_is(tmp_path / "absent") == ""


def test_a_fifo_is_read_while_somebody_writes_and_refused_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PATIENCE", 0.2)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="nothing comes out of it"):
        read_bytes(tmp_path / "fifo")
    monkeypatch.setattr(reading, "PATIENCE", 10.0)
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(b"x" * 200_000,))
    writer.start()
    assert len(read_bytes(tmp_path / "fifo")) == 200_000
    writer.join(10)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": 1, "b": 2, "a": 3}', "{", "", "9" * 5000])
def test_odd_json_is_a_value_error(tmp_path, text):
    with pytest.raises(ValueError, match=r"too deep|twice|delimiter|Expecting|Exceeds|property"):
        parse_json(text)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"too deep|twice|delimiter|Expecting|Exceeds|property"):
        read_json(tmp_path / "x.json")
    assert parse_json('{"a": 1, "a": 3}', keys_once=False) == {"a": 3}


def test_a_zip_that_could_take_any_time_is_refused(tmp_path):
    for name, kind, size in (("packed", zipfile.ZIP_DEFLATED, 10), ("huge", zipfile.ZIP_STORED, 5 << 20)):
        with zipfile.ZipFile(tmp_path / name, "w", kind) as archive:
            archive.writestr("archive/data.pkl", bytes(size))
        with pytest.raises(ValueError, match="is compressed|has 5 MiB"):
            require_stored(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202egnp.exe\u2069", "\\u202egnp.exe\\u2069"),
        ("caf\udce9 \ud800", "caf\\xe9 \\ud800"),
        ("Turdus rufopalliatus – naïve 鳥", "Turdus rufopalliatus – naïve 鳥"),
    ],
)
def test_text_is_shown_safely(text, safe):
    assert shown(text) == safe
    assert str(FlipError(text)) == safe


def test_messages_are_one_line_of_bounded_length_that_keeps_what_to_do():
    error = DataError("/very/long/path/of/a/file.txt is odd " + "word " * 1000 + "\n; write it again")
    assert len(str(error)) <= MOST < 400
    assert str(error).endswith("write it again")
    assert "…a/file.txt" in one_line(error.args[0])


def test_names_that_are_not_utf_8_are_kept_in_json_and_csv(tmp_path):
    name = os.fsdecode(b"caf\xe9\x1b.png")
    assert parse_json(json_text({"path": name})) == {"path": name}
    json_text(name).encode("utf-8")
    write_text(tmp_path / "list.txt", name)
    assert (tmp_path / "list.txt").read_bytes() == b"caf\xe9\x1b.png"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-x", "@cmd", "\tx", "\rx"])
def test_cells_that_a_spreadsheet_would_run_are_guarded_on_request(cell):
    assert csv_cells({"label": cell, "score": -0.5}, safe=True) == {"label": f"'{cell}", "score": -0.5}
    assert csv_cells({"label": cell}) == {"label": cell}
    assert csv_cells({"label": "wren=1"}, safe=True) == {"label": "wren=1"}


def test_rows_of_csv_are_guarded(tmp_path):
    with (tmp_path / "x.csv").open("w") as stream:
        RowWriter(stream, "csv", ("path", "label"), csv_safe=True).write({"path": "a.png", "label": "=1"})
    assert (tmp_path / "x.csv").read_text() == "path,label\na.png,'=1\n"
