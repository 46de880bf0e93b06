"""Files that a download left under another name are told by how they begin, wherever files are opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from flip.clip.model import load_model
from flip.data.foreign import what_it_is
from flip.data.images import decode_image
from flip.data.table_files import read_table
from flip.diffusion.checkpoint import load_pipeline
from flip.errors import CheckpointError, DataError, ModelError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
PAGE = b"\n<!DOCTYPE html><html><body>404"


@pytest.mark.parametrize(("content", "said"), [(POINTER, "pointer of Git LFS"), (PAGE, "a web page")])
def test_it_is_named_wherever_a_file_is_opened(content: bytes, said: str, tmp_path: Path) -> None:
    for name in ("a.jpg", "a.csv", "a.parquet", "a.safetensors", "a.pt"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        decode_image(tmp_path / "a.jpg")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(DataError, match=said):
            read_table(tmp_path / name)
    for name in ("a.safetensors", "a.pt"):
        with pytest.raises(ModelError, match=said):
            load_model(str(tmp_path / name))
    with pytest.raises(CheckpointError, match=said):
        load_pipeline(tmp_path / "a.safetensors", cache=tmp_path)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"GGUF\x03\0\0\0", "weights in the GGUF format"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"%PDF-1.7", "a PDF"),
        (b"<?xml version", "XML"),
    ],
)
def test_other_kinds(head: bytes, what: str) -> None:
    assert str(what_it_is(head)).startswith(what)


@pytest.mark.parametrize("head", [b"", b"PK\x03\x04", b"\xff\xd8\xff\xe0", b"path,label\n", b"PAR1"])
def test_what_it_may_be_is_nothing_else(head: bytes) -> None:
    assert what_it_is(head) is None


def test_a_safetensors_file_that_begins_with_a_brace_is_one(tmp_path: Path) -> None:
    # The length of the header comes first, and 123 is a brace.
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(123)
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    assert load_file(tmp_path / "a.safetensors").keys() == {"x"}
    with pytest.raises(ModelError) as error:
        load_model(str(tmp_path / "a.safetensors"))
    assert "JSON" not in str(error.value)


def test_a_configuration_is_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="is a configuration and no weights; pass its folder|which flip does not read"):
        load_model(str(tmp_path / "config.json"))
