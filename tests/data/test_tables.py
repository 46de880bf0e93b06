"""Tables as spreadsheets and people write them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flip.data.dataset import Dataset
from flip.data.layouts.manifest import read_manifest
from flip.data.table_files import read_table
from flip.data.text import decode_text
from flip.errors import DataError

Draw = Callable[..., Path]
Write = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def photos(draw: Draw) -> None:
    for path in ("wren/1.jpg", "wren/2.jpg", "gull/3.jpg"):
        draw(path)


def labels(dataset: Dataset) -> dict[str, str]:
    return {record.path: dataset.raw_names[record.label] for record in dataset.records}


PLAIN = {"wren/1.jpg": "wren", "gull/3.jpg": "gull"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "path;label\nwren/1.jpg;wren\ngull/3.jpg;gull\n"),
        ("m.csv", "path\tlabel\nwren/1.jpg\twren\ngull/3.jpg\tgull\n"),
        ("m.csv", "path|label\nwren/1.jpg|wren\ngull/3.jpg|gull\n"),
        ("m.tsv", "path,label\nwren/1.jpg,wren\ngull/3.jpg,gull\n"),
        ("m.csv", "sep=;\npath;label\nwren/1.jpg;wren\ngull/3.jpg;gull\n"),
        ("m.csv", "path,label\r\nwren/1.jpg,wren\r\ngull/3.jpg,gull\r\n"),
        ("m.csv", "path,label\rwren/1.jpg,wren\rgull/3.jpg,gull\r"),
        ("m.csv", "\ufeffpath,label\nwren/1.jpg,wren\ngull/3.jpg,gull\n"),
        ("m.csv", "path,label\nwren/1.jpg,wren\ngull/3.jpg,gull\n,\n,\n\n"),
        ("m.csv", "path,label,,\nwren/1.jpg,wren,,\ngull/3.jpg,gull,,\n"),
        ("m.csv", ",path,label\n0,wren/1.jpg,wren\n1,gull/3.jpg,gull\n"),
        ("m.csv", '"path","label"\n"wren/1.jpg","wren"\n"gull/3.jpg","gull"\n'),
        ("m.csv", "path,label\nwren\\1.jpg,wren\ngull\\3.jpg,gull\n"),
        ("m.csv", "path,label\nC:\\Users\\me\\birds\\wren\\1.jpg,wren\nC:\\Users\\me\\birds\\gull\\3.jpg,gull\n"),
        ("m.csv", "path,label\n\\\\server\\birds\\wren\\1.jpg,wren\nD:/birds/gull/3.jpg,gull\n"),
        ("m.csv", "path,label\n./wren/1.jpg,wren\n././gull/3.jpg,gull\n"),
        ("m.csv", "path,label\nb'wren/1.jpg',b'wren'\nb\"gull/3.jpg\",b'gull'\n"),
    ],
)
def test_what_spreadsheets_write_is_read(write: Write, name: str, text: str) -> None:
    if "D:/" in text:
        text = text.replace("D:/birds", "D:\\birds")
    assert labels(read_manifest(write(name, text))) == PLAIN


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_encodings_with_a_mark(tmp_path: Path, draw: Draw, encoding: str) -> None:
    draw("möwe/1.jpg")
    text = "path,label\nmöwe/1.jpg,Möwe\n"
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    file = tmp_path / "m.csv"
    file.write_bytes((mark + text).encode(encoding))
    assert labels(read_manifest(file)) == {"möwe/1.jpg": "Möwe"}


@pytest.mark.parametrize("data", [b"caf\xe9", "path".encode("utf-16-le"), b"\xff\xfeabc"])
def test_other_encodings_are_named(data: bytes) -> None:
    with pytest.raises(DataError, match=r"list.txt is not UTF-8 \(byte \d+.*save it as UTF-8"):
        decode_text(data, "list.txt")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "image,class",
            ["the photos are read from the column 'image'", "the classes are read from the column 'class'"],
        ),
        (
            "filename,target",
            ["the photos are read from the column 'filename'", "the classes are read from the column 'target'"],
        ),
        ("File_Name,Category", ["the classes are read from the column 'category'"]),
        ("filepath,class_name", None),
        ("path,label", []),
    ],
)
def test_usual_names_of_columns_are_read_and_said(write: Write, header: str, said: list[str] | None) -> None:
    dataset = read_manifest(write("m.csv", f"{header}\nwren/1.jpg,wren\ngull/3.jpg,gull\n"))
    assert labels(dataset) == PLAIN
    if said is not None:
        assert list(dataset.notes) == said


def test_of_several_columns_the_one_that_is_read_is_said(write: Write) -> None:
    dataset = read_manifest(write("m.csv", "path,target,label\nwren/1.jpg,0,wren\n"))
    assert labels(dataset) == {"wren/1.jpg": "wren"}
    assert dataset.notes == ("the classes are read from the column 'label', not from target",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "path,label,label\nwren/1.jpg,a,b\n", "has the column 'label' twice"),
        ("m.csv", "path,Label,label \nwren/1.jpg,a,b\n", "has the column 'label' twice"),
        ("m.csv", "path,lable\nwren/1.jpg,a\n", r"no column 'label'; it has path, lable \('lable' is near\)"),
        ("m.csv", "pth,label\nwren/1.jpg,a\n", r"no column 'path' or 'file_name'; it has pth, label \('pth' is near\)"),
        (
            "m.csv",
            'path,label\n"wren/1.jpg,wren\ngull/3.jpg,gull\n',
            r"m.csv:2: a quote that begins in this row is never",
        ),
        (
            "m.csv",
            'path,label\nwren/1.jpg,wren\ngull/3.jpg,"gull\n',
            r"m.csv:3: a quote that begins in this row is never",
        ),
        (
            "m.csv",
            'path,label\nwren/1.jpg,"wren\ngull/3.jpg,gull"\n',
            r"m.csv:2: a quote that begins in this row .* up to line 3",
        ),
        (
            "m.csv",
            "path,label\nftp://x.org/1.jpg,wren\n",
            r"m.csv:2: 'ftp://x.org/1.jpg' is a URL that is not read; down",
        ),
        ("m.csv", "path,label\nwren\\9.jpg,wren\n", r"m.csv:2: no file 'wren\\\\9.jpg'"),
        ("m.csv", "path,label\nC:\\x\\9.jpg,wren\n", r"m.csv:2: no file 'C:"),
        (
            "m.csv",
            "path,label\nwren/1.jpg,a\nwren/../wren/1.jpg,b\n",
            r"m.csv:3: 'wren/../wren/1.jpg' is on line 2 already",
        ),
        ("m.csv", "path,label\nwren/1.jpg,a\n./wren/1.jpg,b\n", r"m.csv:3: './wren/1.jpg' is on line 2 already"),
        ("m.csv", "path,label,split\nwren/1.jpg,a,unlabeled\n", "has only rows without labels"),
        # Labels that are none, or several.
        ("m.csv", "path,label\nwren/1.jpg,wren\nwren/2.jpg,nan\n", r"m.csv:3: no label; every row needs one"),
        ("m.csv", "path,label\nwren/1.jpg,wren\nwren/2.jpg,<NA>\n", r"m.csv:3: no label"),
        ("m.jsonl", '{"path": "wren/1.jpg", "label": NaN}\n', r"m.jsonl:1: no label"),
        (
            "m.csv",
            "path,label\nwren/1.jpg,\"['wren', 'gull']\"\n",
            r"m.csv:2: the label is .*; write one class in each row",
        ),
        ("m.jsonl", '{"path": "wren/1.jpg", "label": ["a", "b"]}\n', r"m.jsonl:1: the label is .*; write one class"),
        ("m.jsonl", '{"path": "wren/1.jpg", "label": {"id": 1}}\n', r"m.jsonl:1: the label is .*; write one class"),
        # Keys that are there twice.
        ("m.jsonl", '{"path": "wren/1.jpg", "label": "a", "label": "b"}\n', r"m.jsonl:1: .*'label' is there twice"),
        ("m.jsonl", '{"path": "wren/1.jpg", "label": "a", "Label": "b"}\n', r"m.jsonl:1 has the column 'label' twice"),
        ("m.jsonl", '{"path": "wren/1.jpg", " path": "x", "label": "a"}\n', r"m.jsonl:1 has the column 'path' twice"),
        ("m.jsonl", '{"caf\u00e9": 1, "cafe\u0301": 2, "path": "x", "label": "a"}\n', r"has the column 'café' twice"),
        # Paths that nearly are one.
        ("m.csv", "path,label\nwren/1,wren\n", r"no file 'wren/1' .*; did you mean wren/1.jpg\?"),
        ("m.csv", "path,label\nwren/1.JPG,wren\n", r"no file 'wren/1.JPG' .*; did you mean wren/1.jpg\?"),
        ("m.csv", "path,label\nwren/1.png,wren\n", r"no file 'wren/1.png' .*; did you mean wren/1.jpg\?"),
        # Files that are no tables.
        ("m.csv", "PK\x03\x04 zip", "is a spreadsheet or an archive; save the spreadsheet as CSV"),
        ("m.csv", "<!DOCTYPE html>\n<html>", "is a web page"),
        ("m.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
    ],
)
def test_what_is_meant_otherwise_is_refused_with_its_line(write: Write, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(write(name, text))


def test_a_long_file_with_an_open_quote_names_the_line_it_is_on(write: Write) -> None:
    rows = "".join(f"wren/{i}.jpg,wren\n" for i in range(20_000))
    with pytest.raises(DataError, match=r"m.csv:3: .*is a quote not closed"):
        read_manifest(write("m.csv", f'path,label\nwren/1.jpg,wren\ngull/3.jpg,"gull\n{rows}'))


def test_quoted_lines_in_captions_are_kept(write: Write) -> None:
    dataset = read_manifest(write("m.csv", 'path,label,text\nwren/1.jpg,wren,"a wren,\nin a ""tree"""\n'))
    assert dataset.records[0].captions == ('a wren,\nin a "tree"',)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("path,label,caption", ('wren/1.jpg,wren,"a wren', "wren/2.jpg,wren,x", 'gull/3.jpg,gull,bird"')),
        ("caption,path,label", ('"a wren,wren/1.jpg,wren', 'bird",gull/3.jpg,gull')),
        ("path,caption,label", ('wren/1.jpg,"a wren,wren', 'gull/3.jpg,bird",gull')),
        ("path,label,split,notes", ('wren/1.jpg,wren,train,"?', 'gull/3.jpg,gull,test,!"')),
    ],
)
def test_a_quote_that_a_later_row_closes_is_refused(
    write: Write, suffix: str, header: str, rows: tuple[str, ...]
) -> None:
    text = "\n".join((header, *rows)) + "\n"
    with pytest.raises(DataError, match=rf"m.{suffix}:2: a quote that begins in this row takes in"):
        read_manifest(write(f"m.{suffix}", text.replace(",", "\t") if suffix == "tsv" else text))


def test_a_quote_over_rows_without_files_is_seen_by_their_labels(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text('key,label,caption\n1,a,x\n2,b,"x\n3,a,x\n4,b,x"\n5,b,x\n')
    with pytest.raises(DataError, match=r"m.csv:3: a quote that begins"):
        read_table(file)


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ('path,label,text\nwren/1.jpg,wren,"one, two,\nthree, four, five"\n', "one, two,\nthree, four, five"),
        ('text,path,label\n"a wren, x, y\nin a tree",wren/1.jpg,wren\n', "a wren, x, y\nin a tree"),
        ('path,text,label\nwren/1.jpg,"a\nb, c",wren\ngull/3.jpg,d,wren\n', "a\nb, c"),
    ],
)
def test_commas_in_captions_of_several_lines_are_kept(write: Write, text: str, caption: str) -> None:
    assert read_manifest(write("m.csv", text)).records[0].captions == (caption,)


def test_a_photo_behind_a_link_is_one_photo(write: Write, tmp_path: Path) -> None:
    (tmp_path / "wren" / "link.jpg").symlink_to(tmp_path / "wren" / "1.jpg")
    (tmp_path / "linked").symlink_to(tmp_path / "wren")
    for other in ("wren/link.jpg", "linked/1.jpg", str(tmp_path / "wren" / "1.jpg")):
        with pytest.raises(DataError, match=r"m.csv:3: .* is on line 2 already"):
            read_manifest(write("m.csv", f"path,label\nwren/1.jpg,a\n{other},b\n"))


def test_a_path_with_a_tilde_is_in_the_home_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = read_manifest(write("lists/m.csv", "path,label\n~/wren/1.jpg,wren\n"))
    assert dataset.records[0].path == str(tmp_path / "wren" / "1.jpg")
    assert "paths with ~, which is your home folder (1), the first ~/wren/1.jpg" in dataset.notes


def test_paths_of_another_machine_are_said(write: Write) -> None:
    dataset = read_manifest(write("m.csv", "path,label\nC:\\birds\\wren\\1.jpg,wren\n"))
    assert dataset.notes == (
        "paths of another machine, found below the table's folder (1), the first C:\\birds\\wren\\1.jpg as wren/1.jpg",
    )


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_in_a_table_and_on_the_disk_may_differ_in_form(
    draw: Draw, write: Write, tmp_path: Path, form: str
) -> None:
    other = "NFD" if form == "NFC" else "NFC"
    on_disk = normalize(form, "möwe/ü 1.jpg")
    draw(on_disk)
    dataset = read_manifest(
        write("m.csv", f"path,label\n{normalize(other, 'möwe/ü 1.jpg')},{normalize('NFD', 'Möwe')}\n")
    )
    assert dataset.records[0].path == on_disk
    assert dataset.file(dataset.records[0]).is_file()
    assert dataset.raw_names == (normalize("NFC", "Möwe"),)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("1.5", "labels are numbers with a fraction, such as 1.5: each different number is a class"),
        ("tench, Tinca tinca", "class names with commas are taken whole, such as 'tench, Tinca tinca'"),
        ("1.0", None),
        ("wren", None),
    ],
)
def test_labels_that_may_be_something_else_are_said(write: Write, given: str, said: str | None) -> None:
    dataset = read_manifest(write("m.csv", f'path,label\nwren/1.jpg,"{given}"\n'))
    assert labels(dataset) == {"wren/1.jpg": given}
    assert [note for note in dataset.notes if said is None or said in note] == list(dataset.notes)
    assert bool(dataset.notes) == (said is not None)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (("1", "1.0"), "labels are whole numbers, some with a fraction of 0, which is left out: 1.0 is 1"),
        (("gull", "wren|gull"), "labels that join several classes, such as 'wren|gull', are read as classes"),
        (("gull", "gull; owl"), "labels that join several classes, such as 'gull; owl', are read as classes"),
        (("gull", "None"), "the label 'None' is read as a class; take its rows out"),
        (("gull", "NULL"), "the label 'NULL' is read as a class"),
        (("gull", "unknown"), "the label 'unknown' is read as a class"),
    ],
)
def test_labels_beside_others_are_said(write: Write, others: tuple[str, str], said: str) -> None:
    rows = zip(("wren/1.jpg", "wren/2.jpg"), others, strict=True)
    dataset = read_manifest(write("m.csv", "path,label\n" + "".join(f"{path},{label}\n" for path, label in rows)))
    assert any(note.startswith(said) for note in dataset.notes)


@pytest.mark.parametrize("column", ["is_train", "fold", "partition"])
def test_a_column_that_says_the_split_otherwise_is_said(write: Write, column: str) -> None:
    text = f"path,label,{column}\nwren/1.jpg,wren,1\ngull/3.jpg,gull,0\n"
    said = f"the column '{column}' is there and is not read; a column 'split' with train and test decides"
    assert said in read_manifest(write("m.csv", text)).notes
    with_split = text.replace(column, f"split,{column}").replace(",1", ",train,1").replace("gull,0", "gull,test,0")
    assert read_manifest(write("m.csv", with_split)).notes == ()


def test_one_label_in_a_list_is_that_label(write: Write) -> None:
    rows = '{"path": "wren/1.jpg", "label": ["wren"]}\n{"path": "gull/3.jpg", "label": ["gull"]}\n'
    assert labels(read_manifest(write("m.jsonl", rows))) == PLAIN


def test_labels_that_differ_from_the_folder_are_said(draw: Draw, write: Write) -> None:
    draw("gull/4.jpg")
    rows = "wren/1.jpg,wren\nwren/2.jpg,gull\ngull/3.jpg,gull\ngull/4.jpg,gull\n"
    assert read_manifest(write("m.csv", f"path,label\n{rows}")).notes == (
        "labels that differ from the photo's folder (1), the first wren/2.jpg: gull",
    )


def test_words_for_splits_in_a_column(write: Write) -> None:
    dataset = read_manifest(
        write("m.csv", "path,label,set\nwren/1.jpg,w,Training\nwren/2.jpg,w,eval\ngull/3.jpg,g,unlabeled\n")
    )
    assert [record.split for record in dataset.records] == ["train", "test"]
    assert dataset.notes == ("read eval as test",)
    assert [str(omission) for omission in dataset.left_out] == [
        "photos whose split says that they have no label (1), the first gull/3.jpg"
    ]


def test_bytes_in_parquet_are_text(tmp_path: Path) -> None:
    file = tmp_path / "m.parquet"
    pq.write_table(pa.table({"path": ["wren/1.jpg", "gull/3.jpg"], "label": [b"wren", b"gull"]}), file)
    assert labels(read_manifest(file)) == PLAIN


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_labels_that_are_not_utf8_stay_apart(tmp_path: Path, suffix: str) -> None:
    given = [b"caf\xe9", b"caf\xe8", b"caf\xff\xfe"]
    photos = ["wren/1.jpg", "wren/2.jpg", "gull/3.jpg"]
    file = tmp_path / f"m.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"path": [p.encode() for p in photos], "label": given}), file)
    elif suffix == "jsonl":
        rows = ({"path": p, "label": str(label)} for p, label in zip(photos, given, strict=True))
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "," if suffix == "csv" else "\t"
        rows_of_text = (f"{p}{mark}{label!r}\n" for p, label in zip(photos, given, strict=True))
        file.write_text(f"path{mark}label\n" + "".join(rows_of_text))
    read = labels(read_manifest(file))
    assert [os.fsencode(read[p]) for p in photos] == given


def test_paths_that_are_not_utf8_are_their_files(tmp_path: Path, draw: Draw) -> None:
    names = [b"\xe9.jpg", b"\xe8.jpg"]
    for name in names:
        (tmp_path / "wren" / "1.jpg").rename(tmp_path / os.fsdecode(name))
        draw("wren/1.jpg")
    pq.write_table(pa.table({"path": names, "label": ["a", "b"]}), tmp_path / "m.parquet")
    dataset = read_manifest(tmp_path / "m.parquet")
    assert [os.fsencode(record.path) for record in dataset.records] == names


@pytest.mark.parametrize(
    "label", ["b''" + "-" * 100_000 + "b''", "b'" + "('" * 50_000 + "'", 'b"' + "[" * 100_000 + '""', "b''\n'", "b'\\'"]
)
def test_a_label_that_only_looks_like_bytes_is_text(tmp_path: Path, label: str) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps({"path": "wren/1.jpg", "label": label}) + "\n")
    assert labels(read_manifest(file)) == {"wren/1.jpg": label}


@pytest.mark.parametrize("box", ["[1, 2, 3, {}]", '{{"a": 1}}', '"1 2 x 4"', '[[[]], "x"]', "{}", "[{}, 1]"])
def test_a_box_that_is_none_is_one_line(write: Write, box: str) -> None:
    given = box.format("9" * 400)
    with pytest.raises(DataError, match=r"m.jsonl:1: box .* is not four numbers"):
        read_manifest(write("m.jsonl", f'{{"path": "wren/1.jpg", "label": "a", "bbox": {given}}}\n'))


def test_a_large_table_is_read_in_seconds(tmp_path: Path) -> None:
    import time

    file = tmp_path / "m.csv"
    file.write_text("path,label\n" + "".join(f"wren/{i}.jpg,{i % 500}\n" for i in range(50_000)))
    start = time.perf_counter()
    assert len(read_table(file).rows) == 50_000
    assert time.perf_counter() - start < 10


@pytest.mark.skipif(not hasattr(os, "link"), reason="no links here")
def test_hard_copies_are_two_files(write: Write, tmp_path: Path) -> None:
    os.link(tmp_path / "wren" / "1.jpg", tmp_path / "wren" / "copy.jpg")
    assert len(read_manifest(write("m.csv", "path,label\nwren/1.jpg,a\nwren/copy.jpg,a\n"))) == 2
