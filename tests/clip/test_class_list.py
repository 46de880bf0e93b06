"""Lists of class names as people have them: text, tables, JSON, and the published ones."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flip.clip.class_list import read_class_list
from flip.errors import DataError


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("a.txt", b"Blue Jay\n\n Emu \n", ("Blue Jay", "Emu")),
        ("a.txt", "\ufeffwren\r\ngull\r\n".encode(), ("wren", "gull")),
        ("a.txt", "wren\ngull\n".encode("utf-16"), ("wren", "gull")),
        ("a.txt", "cafe\u0301\nwren".encode(), ("caf\u00e9", "wren")),
        ("a.txt", b"tench, Tinca tinca\ngoldfish\n", ("tench, Tinca tinca", "goldfish")),
        ("a.txt", b"1.5 TSI\n2.0 TDI\n", ("1.5 TSI", "2.0 TDI")),
        (
            "classes.txt",
            b"1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n",
            ("Black footed Albatross", "Laysan Albatross"),
        ),
        ("classes.txt", b"0 Birds\n1 Ducks, Geese\n2 Wrens\n", ("Birds", "Ducks, Geese", "Wrens")),
        ("a.txt", b"3 Series\n5 Series\n", ("3 Series", "5 Series")),
        ("a.csv", b"id;label\n1;red wren\n2;gull\n3;red wren\n", ("red wren", "gull")),
        ("a.csv", b"id,name\n1,wren\n2,gull\n", ("wren", "gull")),
        ("a.tsv", b"class\tn\nwren\t3\ngull\t4\n", ("wren", "gull")),
        ("a.jsonl", b'{"label": "wren"}\n{"label": "gull"}\n', ("wren", "gull")),
        ("a.json", b'["wren", "gull"]', ("wren", "gull")),
        ("a.json", b'{"10": "gull", "2": "wren"}', ("wren", "gull")),
        ("a.json", b'{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}', ("tench", "goldfish")),
    ],
)
def test_names(tmp_path: Path, name: str, content: bytes, names: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_class_list(tmp_path / name) == names


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "names no class"),
        ("a.txt", b"1\twren\n2\tgull\n", r"has columns, such as .*; give the names alone"),
        ("a.txt", "caf\u00e9".encode("latin-1"), "is not UTF-8"),
        ("a.csv", b"id,size\n1,2\n", "has no column 'label'; it has id, size"),
        ("a.csv", b"1,wren\n2,gull\n", "has no column 'label'; it has 1, wren"),
        ("a.json", b'{"wren": ["small"], "gull": ["grey"]}', "sentences about each class go to --prompts"),
        ("a.json", b"[1, 2]", "must be a JSON list of names"),
        ("a.json", b"[", "is not JSON"),
        ("a.json", b"[]", "names no class"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_class_list(tmp_path / name)


def test_an_absent_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_class_list(tmp_path / "none.txt")


@pytest.mark.parametrize("content", ["crane\ncrane\nemu\n", "cafe\u0301\ncaf\u00e9\n", "a\nb\na\n"])
def test_equal_names_are_two_classes_and_said(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flip")
    (tmp_path / "a.txt").write_text(content)
    assert len(read_class_list(tmp_path / "a.txt")) == content.count("\n")
    assert "2 classes have the name" in caplog.text


def test_a_long_list_is_read_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"species {i}" for i in range(450_000)))
    assert len(read_class_list(tmp_path / "a.txt")) == 450_000


@pytest.mark.parametrize("text", ["1,jay\n2,wren\n", "0; jay\n1; wren\n", "10 , jay\n11 , wren\n"])
def test_numbers_and_names_in_columns_are_no_names(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match="has columns, such as"):
        read_class_list(tmp_path / "classes.txt")
