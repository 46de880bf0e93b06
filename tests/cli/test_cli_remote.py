"""Outputs at URLs: uploaded whole when a command has ended well, and refused before the work where that cannot be."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import one_line, read_json
from tests.data.tar_files import write_tar


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


# Shards.


def shard(flip, data, name, *options):
    return flip("embed", "--data", data, "-o", "s3://birds/table", "--shard", name, *options)


def test_shards_at_s3_are_joined_there(flip, birds, s3, cache, tmp_path):
    done = [read_json(shard(flip, birds, name)) for name in ("2/3", "0/3", "1/3")]
    assert [(one["shard"], one["of"]) for one in done] == [("2/3", 20), ("0/3", 20), ("1/3", 20)]
    assert done[0]["file"] == "s3://birds/table/shards/shard-00002-of-00003.parquet"
    refused = one_line(flip("knn", "--data", "s3://birds/table"), 1)
    assert "holds shards that are not joined; run flip embed --join s3://birds/table" in refused
    joined = read_json(flip("embed", "--join", "s3://birds/table"))
    assert (joined["joined"], joined["n"], joined["shards"]) == ("s3://birds/table", 20, 3)
    s3.invalidate_cache()
    assert s3.find("birds/table") == ["birds/table/embeddings.parquet"]
    s3.get("birds/table/embeddings.parquet", str(tmp_path / "joined.parquet"))
    read_json(flip("embed", "--data", birds, "-o", tmp_path / "local"))
    assert pq.read_table(tmp_path / "joined.parquet").equals(pq.read_table(tmp_path / "local"))
    assert not list((cache / "outgoing").iterdir())


def test_a_shard_and_a_join_at_s3_that_are_done_are_not_done_again(flip, birds, s3):
    read_json(shard(flip, birds, "0/2"))
    before = s3.info("birds/table/shards/shard-00000-of-00002.parquet")["LastModified"]
    again = shard(flip, birds, "0/2")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "shard 0/2 of s3://birds/table is there (10 rows); nothing to do" in again.stderr
    s3.invalidate_cache()
    assert s3.info("birds/table/shards/shard-00000-of-00002.parquet")["LastModified"] == before
    read_json(shard(flip, birds, "1/2"))
    read_json(flip("embed", "--join", "s3://birds/table"))
    for done in (flip("embed", "--join", "s3://birds/table"), shard(flip, birds, "1/2")):
        assert (done.exit_code, done.stdout) == (0, "")
        assert "s3://birds/table is" in done.stderr.splitlines()[-1].replace("shard 1/2 of ", "")


def test_a_damaged_part_at_s3_is_embedded_again(flip, birds, s3):
    read_json(shard(flip, birds, "0/2"))
    read_json(shard(flip, birds, "1/2"))
    name = "birds/table/shards/shard-00001-of-00002.parquet"
    s3.pipe(name, s3.cat(name)[:-100])
    refused = one_line(flip("embed", "--join", "s3://birds/table"), 1)
    assert "shard-00001-of-00002.parquet is damaged or no part of a table; run shard 1/2 again" in refused
    s3.invalidate_cache()
    assert len(s3.find("birds/table/shards")) == 2
    assert "is damaged; shard 1/2 is embedded again" in shard(flip, birds, "1/2").stderr
    assert read_json(flip("embed", "--join", "s3://birds/table"))["n"] == 20


def test_a_join_at_s3_that_was_interrupted_while_it_removed_parts_is_ended(flip, birds, s3):
    for name in ("0/3", "1/3", "2/3"):
        read_json(shard(flip, birds, name))
    kept = {name: s3.cat(name) for name in s3.find("birds/table")[1:]}
    read_json(flip("embed", "--join", "s3://birds/table"))
    for name, data in kept.items():
        s3.pipe(name, data)
    again = flip("embed", "--join", "s3://birds/table")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "s3://birds/table is joined already (20 rows)" in again.stderr
    s3.invalidate_cache()
    assert s3.find("birds/table") == ["birds/table/embeddings.parquet"]


def test_a_join_at_s3_leaves_tables_whose_names_its_own_would_match(flip, birds, s3):
    for folder in ("run1", "run[1]", "r*"):
        done = flip("embed", "--data", birds, "-o", f"s3://birds/{folder}", "--shard", "0/1")
        assert done.exit_code == 0, done.output
    for folder in ("run[1]", "r*"):
        assert read_json(flip("embed", "--join", f"s3://birds/{folder}"))["n"] == 20
    s3.invalidate_cache()
    assert sorted(s3.find("birds")) == [
        "birds/r*/embeddings.parquet",
        "birds/run1/shards/shard-00000-of-00001.parquet",
        "birds/run[1]/embeddings.parquet",
    ]


def test_a_join_at_s3_replaces_no_other_table(flip, birds, s3):
    read_json(shard(flip, birds, "0/1"))
    read_json(flip("embed", "--data", birds, "-o", "s3://birds/other"))
    s3.copy("birds/other/embeddings.parquet", "birds/table/embeddings.parquet")
    refused = one_line(flip("embed", "--join", "s3://birds/table"), 1)
    assert "s3://birds/table/embeddings.parquet is a table of something else; move it out" in refused


def test_a_tar_that_is_cut_off_is_read_at_s3_as_it_is_here(flip, tmp_path, birds, s3):
    photos = sorted((birds / "train").rglob("*.png"))[:4]
    members = [
        (f"{i}{suffix}", data)
        for i, photo in enumerate(photos)
        for suffix, data in ((".png", photo.read_bytes()), (".cls", f"class {i % 2}".encode()))
    ]
    write_tar(tmp_path / "whole.tar", members)
    whole = (tmp_path / "whole.tar").read_bytes()
    end = whole.rstrip(b"\0")
    for name, data in {
        "noend": whole[: -(-len(end) // 512) * 512],
        "header": whole[: -(-len(end) // 512) * 512 - 700],
    }.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        s3.pipe(f"birds/tars/{name}.tar", data)
        here = read_json(flip("data", "info", tmp_path / f"{name}.tar", "--format", "json"))
        there = read_json(flip("data", "info", f"s3://birds/tars/{name}.tar", "--format", "json"))
        assert (there["photos"], there["classes"]) == (here["photos"], here["classes"])
        assert here["photos"] == {"noend": 4, "header": 3}[name]


def test_an_address_of_this_machine_is_its_path(flip, birds, tmp_path):
    read_json(flip("embed", "--data", f"file://{birds}", "-o", f"file://{tmp_path}/a%20table"))
    assert (tmp_path / "a table" / "embeddings.parquet").is_file()
    assert not (tmp_path / "file:").exists()


def test_a_host_that_does_not_answer_is_no_missing_file(flip):
    said = one_line(flip("data", "info", "http://127.0.0.1:9/none.tar"), 1)
    assert "no connection" in said


def test_nothing_is_said_to_be_kept_where_nothing_was_made(flip, s3, tmp_path, cache):
    result = flip("embed", "--data", tmp_path / "nothing", "-o", "s3://birds/table")
    assert "kept" not in result.stderr
    assert not list((cache / "outgoing").iterdir())


def test_an_interrupted_join_at_s3_is_done_again(flip, birds, s3, cache, monkeypatch):
    for name in ("0/2", "1/2"):
        read_json(shard(flip, birds, name))

    def refused(*arguments, **options):
        raise PermissionError("Access Denied")

    with monkeypatch.context() as broken:
        broken.setattr(s3, "rm_file", refused)
        assert "access is denied" in one_line(flip("embed", "--join", "s3://birds/table"), 1)
    s3.invalidate_cache()
    assert len(s3.find("birds/table")) == 3
    assert "not joined" in one_line(flip("knn", "--data", "s3://birds/table"), 1)
    assert read_json(flip("embed", "--join", "s3://birds/table"))["n"] == 20
    s3.invalidate_cache()
    assert s3.find("birds/table") == ["birds/table/embeddings.parquet"]
    assert not list((cache / "outgoing").iterdir())


def test_the_wrong_shard_at_s3_is_one_line(flip, birds, s3):
    read_json(shard(flip, birds, "0/2"))
    other = one_line(shard(flip, birds, "1/3"), 1)
    assert "s3://birds/table was begun with other settings: shards 3 (was 2)" in other
    assert "s3://birds/table lacks shard 1 of 2; run flip embed -o s3://birds/table --shard 1/2" in one_line(
        flip("embed", "--join", "s3://birds/table"), 1
    )
    assert "s3://birds/none holds no shards" in one_line(flip("embed", "--join", "s3://birds/none"), 1)
    s3.pipe("birds/taken/other.txt", b"mine")
    taken = one_line(flip("embed", "--data", birds, "-o", "s3://birds/taken", "--shard", "0/2"), 1)
    assert taken == "flip: -o s3://birds/taken holds files already; pass another folder"
    assert "the bucket none is not there" in one_line(flip("embed", "--join", "s3://none/table"), 1)
    s3.pipe("birds/table/mine.parquet", b"mine")
    read_json(shard(flip, birds, "1/2"))
    beside = one_line(flip("embed", "--join", "s3://birds/table"), 1)
    assert "s3://birds/table/mine.parquet would be read as part of the table; move it out of s3://birds/table" in beside
