"""The cache is an aid: without a place that can be written commands go on, and say so once."""

import errno
import shutil
import sqlite3

import numpy as np
import pytest

from flip.embed import database
from flip.embed.trouble import _say
from tests.embed.plain_encoder import embed, extractor, images_folder, write_photos


@pytest.fixture
def files(tmp_path):
    return write_photos(tmp_path / "photos", 12)


@pytest.fixture(autouse=True)
def nothing_said():
    _say.cache_clear()


@pytest.fixture
def read_only(monkeypatch):
    """Nothing can be written, as on a disk that is mounted read-only; the superuser may write everywhere else."""
    real = database._connect

    def connect(file, mode):
        if mode == "ro":
            return real(file, mode)
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorname = "SQLITE_READONLY"
        raise error

    def refuse(*_args, **_more):
        raise OSError(errno.EROFS, "Read-only file system")

    def start():
        monkeypatch.setattr(database, "_connect", connect)
        monkeypatch.setattr("flip.files._new_aside", refuse)
        monkeypatch.setattr("pathlib.Path.unlink", refuse)
        monkeypatch.setattr("pathlib.Path.replace", refuse)

    return start


def require_one_note(caplog, reason):
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1, said
    assert reason in said[0]
    assert "--cache DIR" in said[0]
    assert "FLIP_CACHE" in said[0]


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_a_folder_that_cannot_be_made(tmp_path, files, caplog, place):
    (tmp_path / "file").write_text("")
    rows, errors, read = embed(tmp_path / place, files)
    assert (errors, read) == ([None] * 12, 12)
    assert (rows == embed(tmp_path / "good", files)[0]).all()
    embed(tmp_path / place, files)
    require_one_note(caplog, "Not a directory")


def test_a_read_only_cache_is_read(tmp_path, files, caplog, read_only):
    before, _, _ = embed(tmp_path / "c", files[:8])
    read_only()
    after, errors, read = embed(tmp_path / "c", files)
    assert (errors, read) == ([None] * 12, 4)
    assert (after[:8] == before).all()
    require_one_note(caplog, "Read-only file system")


@pytest.mark.parametrize("index", [None, b"", b"no database"])
def test_a_read_only_cache_without_an_index_is_read(tmp_path, files, read_only, index):
    before, _, _ = embed(tmp_path / "c", files)
    file = next((tmp_path / "c").glob("*/images.sqlite"))
    file.unlink()
    if index is not None:
        file.write_bytes(index)
    read_only()
    after, _, read = embed(tmp_path / "c", files)
    assert read == 0
    assert (after == before).all()


def test_a_damaged_part_of_a_read_only_cache_is_left_alone(tmp_path, files, read_only):
    embed(tmp_path / "c", files[:6])
    embed(tmp_path / "c", files[6:])
    part = min(images_folder(tmp_path / "c").glob("*.parquet"))
    part.write_bytes(b"PAR1")
    read_only()
    _, errors, read = embed(tmp_path / "c", files)
    assert (errors, read) == ([None] * 12, 6)
    assert part.exists()


@pytest.mark.parametrize("what", ["all", "images", "index"])
def test_a_cache_that_is_deleted_midway(tmp_path, files, what):
    run = extractor(tmp_path / "c")
    stream = run.stream(map(str, files))
    rows = [next(stream).embeddings]
    folder = images_folder(tmp_path / "c")
    if what == "index":
        folder.with_name("images.sqlite").unlink()
    else:
        shutil.rmtree(tmp_path / "c" if what == "all" else folder)
    rows += [batch.embeddings for batch in stream]
    assert (np.concatenate(rows) == embed(tmp_path / "good", files)[0]).all()
    assert embed(tmp_path / "c", files)[2] == 0, "what was embedded was written after all"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk(tmp_path, files, caplog, monkeypatch, number):
    import os

    import pyarrow.parquet as pq

    def full(*_args, **_more):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        rows, errors, read = embed(tmp_path / "c", files)
    assert (errors, read) == ([None] * 12, 12)
    require_one_note(caplog, os.strerror(number))
    assert not list(images_folder(tmp_path / "c").iterdir()), "nothing half-written is left"
    assert (embed(tmp_path / "c", files)[0] == rows).all()


def test_a_disk_that_is_full_for_a_while_loses_no_row(tmp_path, files, monkeypatch):
    import pyarrow.parquet as pq

    real, calls = pq.write_table, []

    def full_at_first(*args, **more):
        calls.append(1)
        if len(calls) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **more)

    monkeypatch.setattr(pq, "write_table", full_at_first)
    run = extractor(tmp_path / "c")
    with run.open_cache() as cache:
        for batch in run._stream((source for source in run_sources(files)), cache):
            assert batch.errors == [None] * len(batch.errors)
            cache.flush()
    assert embed(tmp_path / "c", files)[2] == 0


def run_sources(files):
    from flip.embed.keys import Source

    return [Source(str(file)) for file in files]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_texts_and_captions_need_no_cache(tmp_path, caplog, place):
    (tmp_path / "file").write_text("")
    run = extractor(tmp_path / place)
    texts = ["a red fox", "a blue jay", "a red fox"]
    rows = run.texts(texts)
    assert (rows == extractor(tmp_path / "good").texts(texts)).all()
    assert (rows[0] == rows[2]).all()
    require_one_note(caplog, "Not a directory")


def test_a_read_only_cache_of_texts_is_read(tmp_path, read_only, monkeypatch):
    before = extractor(tmp_path / "c").texts(["a red fox", "a blue jay"])
    read_only()
    run = extractor(tmp_path / "c")
    monkeypatch.setattr(type(run.model), "encode_texts", lambda *_: pytest.fail("it is known"))
    assert (run.texts(["a blue jay", "a red fox"]) == before[::-1]).all()


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_description_that_a_crash_left_empty_is_written_again(tmp_path, files, content):
    import json

    embed(tmp_path / "c", files)
    about = next((tmp_path / "c").glob("*/model.json"))
    about.write_text(content)
    embed(tmp_path / "c", files)
    assert json.loads(about.read_text())["model"] == "plain"
