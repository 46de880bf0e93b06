"""Outputs at URLs: uploaded whole when a command has ended well, and refused before the work where that cannot be."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import one_line, read_json


def test_a_table_is_written_to_s3_and_read_back(flip, birds, s3):
    read_json(flip("embed", "--data", birds, "-o", "s3://birds/table"))
    assert s3.find("birds/table") == ["birds/table/embeddings.parquet"]
    here = read_json(flip("knn", "--data", birds))
    there = read_json(flip("knn", "--data", "s3://birds/table"))
    assert there["top1"] == here["top1"]
    assert there["data"] == "s3://birds/table"


def test_photos_at_s3_give_the_numbers_of_photos_here(flip, birds, s3):
    s3.put(str(birds), "birds/photos", recursive=True)
    here = read_json(flip("knn", "--data", birds))
    there = read_json(flip("knn", "--data", "s3://birds/photos"))
    assert {name: there[name] for name in ("top1", "n", "per_class")} == {
        name: here[name] for name in ("top1", "n", "per_class")
    }


def test_what_is_known_of_photos_at_s3_is_told_by_their_url(flip, birds, s3):
    s3.put(str(birds), "birds/photos", recursive=True)
    told = read_json(flip("data", "info", "s3://birds/photos", "--format", "json"))
    assert (told["data"], told["photos"]) == ("s3://birds/photos", 20)
    checked = read_json(flip("data", "check", "s3://birds/photos", "--format", "json"))
    assert checked["photos"] == 20


def test_a_run_and_a_result_are_uploaded_together(flip, birds, s3, cache):
    result = flip("knn", "--data", birds, "--run", "s3://birds/runs/first", "-o", "s3://birds/result.json")
    assert result.exit_code == 0, result.output
    names = {path.removeprefix("birds/runs/first/") for path in s3.find("birds/runs/first")}
    assert {"result.json", "config.json", "predictions.jsonl"} <= names
    assert json.loads(s3.cat("birds/result.json"))["command"] == "knn"
    assert not list((cache / "outgoing").iterdir())


def test_a_strict_command_that_met_broken_photos_is_uploaded_and_ends_with_3(flip, birds, s3):
    (birds / "test" / "red_fox" / "broken.png").write_bytes(b"no photo")
    result = flip("embed", "--data", birds, "--strict", "-o", "s3://birds/table")
    assert result.exit_code == 3
    assert s3.find("birds/table") == ["birds/table/embeddings.parquet"]


def test_a_folder_that_holds_files_is_refused_before_the_work(flip, birds, s3):
    s3.pipe("birds/table/other.txt", b"mine")
    said = one_line(flip("embed", "--data", birds, "-o", "s3://birds/table"), 1)
    assert said == "flip: s3://birds/table holds files already; pass another folder, or --overwrite"
    read_json(flip("embed", "--data", birds, "-o", "s3://birds/table", "--overwrite"))
    assert s3.cat("birds/table/other.txt") == b"mine"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("-o", "s3://no-such-bucket/table"), "the bucket no-such-bucket is not there"),
        (("-o", "https://example.org/table"), "https:// only reads"),
        (("-o", "gs://birds/table"), "pip install gcsfs"),
        (("--cache", "s3://birds/cache"), "--cache s3://birds/cache is a URL; pass a path of this machine"),
    ],
)
def test_what_cannot_be_written_is_one_line_before_the_work(flip, birds, s3, arguments, what):
    result = flip("embed", "--data", birds, *arguments)
    assert what in one_line(result, 1)
    assert not s3.find("birds")


def test_without_credentials_nothing_is_begun(flip, birds, s3, cache, monkeypatch, tmp_path):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        assert "AWS_ACCESS_KEY_ID" in one_line(flip("embed", "--data", birds, "-o", "s3://birds/table"), 1)
        assert not cache.exists()
    finally:
        monkeypatch.undo()


def test_what_was_made_is_kept_where_it_cannot_be_uploaded(flip, birds, s3, cache, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(s3, "put_file", refused)
    result = flip("embed", "--data", birds, "-o", "s3://birds/table")
    assert "access is denied" in one_line(result, 1)
    assert "what was made is kept in" in result.stderr
    assert len(list((cache / "outgoing").rglob("embeddings.parquet"))) == 1


def test_a_command_that_fails_uploads_nothing(flip, s3, tmp_path):
    result = flip("embed", "--data", tmp_path / "nothing", "-o", "s3://birds/table")
    assert result.exit_code == 1
    assert not s3.find("birds")
