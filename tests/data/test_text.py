"""Lists of paths as they come through a pipe."""

from __future__ import annotations

import codecs
import io
import os

import pytest

from flip.data.text import path_lines, read_text
from flip.errors import DataError


@pytest.mark.parametrize(
    ("data", "null", "paths"),
    [
        (b"a.jpg\nb c.jpg\n", False, ["a.jpg", "b c.jpg"]),
        (b"a.jpg\r\nb.jpg", False, ["a.jpg", "b.jpg"]),
        (codecs.BOM_UTF8 + "ü.jpg\n".encode(), False, ["ü.jpg"]),
        (codecs.BOM_UTF8 + b"a\0b\0", True, ["a", "b"]),
        ("\ufeffü.jpg\r\nb.jpg\r\n".encode("utf-16-le"), False, ["ü.jpg", "b.jpg"]),
        ("\ufeffü.jpg\nb.jpg".encode("utf-16-be"), False, ["ü.jpg", "b.jpg"]),
        (b"a\nb.jpg\0c.jpg\0", True, ["a\nb.jpg", "c.jpg"]),
        (b"caf\xe9.jpg\n", False, [os.fsdecode(b"caf\xe9.jpg")]),
        (b"\n\na.jpg\n\n", False, ["a.jpg"]),
        (b"", False, []),
    ],
)
def test_lists_of_paths(data: bytes, null: bool, paths: list[str]) -> None:
    assert list(path_lines(io.BytesIO(data), null=null)) == paths


@pytest.mark.parametrize("data", ["a.jpg\nb.jpg\n".encode("utf-16-le"), "a.jpg\n".encode("utf-16-be"), b"a\0b\0"])
def test_zero_bytes_are_no_names(data: bytes) -> None:
    with pytest.raises(DataError, match="holds zero bytes; pass -0"):
        list(path_lines(io.BytesIO(data)))


def test_paths_come_while_the_pipe_is_open() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream, os.fdopen(write, "wb", buffering=0) as end:
        paths = path_lines(stream)
        end.write(b"a.jpg\nb.j")
        assert next(paths) == "a.jpg"
        end.write(b"pg\n")
        assert next(paths) == "b.jpg"
        end.close()
        assert list(paths) == []


def test_a_long_list(tmp_path) -> None:
    names = [f"{i}/ü.jpg" for i in range(50_000)]
    file = tmp_path / "list.txt"
    file.write_text("\n".join(names), encoding="utf-8")
    with file.open("rb") as stream:
        assert list(path_lines(stream)) == names
    assert read_text(file).split("\n") == names
