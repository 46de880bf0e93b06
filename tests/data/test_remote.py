"""Data at URLs: listed once, tables fetched, photos read where they lie, and one line for what cannot be reached."""

from __future__ import annotations

import functools
import http.server
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flip import extract_features, load_model
from flip.data.images import decode_photo
from flip.data.open import open_dataset
from flip.errors import DataError, MissingDependencyError
from flip.remote import url_of
from tests.data.tar_files import birds, png, write_tar


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fill(store, folder: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        store.pipe(f"{folder}/{name}", data)


PHOTOS = {f"{name}/{i}.png": png((40 * c, 20 * i, 90)) for c, name in enumerate(("gull", "wren")) for i in range(2)}


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("s3://bucket/birds", "s3://bucket/birds"),
        (Path("s3://bucket/birds"), "s3://bucket/birds"),
        ("S3://bucket/birds/", "s3://bucket/birds"),
        ("https://example.org/a b/x.tar", "https://example.org/a b/x.tar"),
        ("memory://birds", "memory://birds"),
        ("birds", None),
        ("/data/birds", None),
        ("C:\\birds", None),
        ("file:///data/birds", None),
        ("a:b/c", None),
    ],
)
def test_urls_are_told_from_paths(path, url):
    assert url_of(path) == url


def test_a_folder_that_is_called_like_a_protocol_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "birds").mkdir(parents=True)
    assert url_of("s3:/birds") is None


def test_a_folder_at_a_url_is_read_as_a_folder(memory, cache):
    fill(memory, "/birds", PHOTOS)
    dataset = open_dataset("memory://birds", cache=cache)
    assert dataset.layout == "class-folders"
    assert [record.path for record in dataset.records] == sorted(PHOTOS)
    assert decode_photo(dataset.photo(dataset.records[3])).getpixel((0, 0)) == (40, 20, 90)


def test_the_photos_stay_where_they_are(memory, cache):
    fill(memory, "/birds", PHOTOS | {"metadata.csv": b"file_name,text\nwren/0.png,a wren\n"})
    dataset = open_dataset("memory://birds", layout="class-folders", cache=cache)
    here = {path.name for path in dataset.root.rglob("*") if path.is_file()}
    assert here == {"metadata.csv", ".flip-listing.json"}
    assert dataset.records[2].captions == ("a wren",)


def test_embeddings_are_those_of_the_same_photos_here(memory, cache, squares, tiny_model):
    for photo in squares.rglob("*.png"):
        memory.pipe(f"/birds/{photo.relative_to(squares)}", photo.read_bytes())
    model = load_model(str(tiny_model))
    there = extract_features(open_dataset("memory://birds", cache=cache), model, cache=cache)
    here = extract_features(open_dataset(squares), model, cache=cache / "other")
    assert there.paths == here.paths
    np.testing.assert_array_equal(there.image_features, here.image_features)


def test_a_photo_that_changed_is_embedded_again_and_the_others_are_not_read(memory, cache, tiny_model, monkeypatch):
    fill(memory, "/birds", PHOTOS)
    model = load_model(str(tiny_model))
    before = extract_features(open_dataset("memory://birds", cache=cache), model, cache=cache)
    memory.pipe("/birds/wren/0.png", png("red"))
    read = []
    cat = type(memory).cat_file
    monkeypatch.setattr(
        type(memory), "cat_file", lambda self, path, *a, **k: read.append(path) or cat(self, path, *a, **k)
    )
    after = extract_features(open_dataset("memory://birds", cache=cache), model, cache=cache)
    assert read == ["/birds/wren/0.png"]
    changed = (before.image_features != after.image_features).any(axis=1)
    assert [path for path, differs in zip(after.paths, changed, strict=True) if differs] == ["wren/0.png"]


def test_a_photo_that_is_gone_between_listing_and_reading_costs_its_row(memory, cache, tiny_model):
    fill(memory, "/birds", PHOTOS)
    dataset = open_dataset("memory://birds", cache=cache)
    memory.rm("/birds/wren/1.png")
    features = extract_features(dataset, load_model(str(tiny_model)), cache=cache)
    assert [error for error in features.errors if error] == [features.errors[3]]
    assert "not there" in features.errors[3]


def test_a_table_at_a_url_finds_the_photos_beside_it(memory, cache):
    fill(memory, "/birds", PHOTOS | {"birds.csv": b"path,label\nwren/0.png,wren\ngull/1.png,gull\n"})
    dataset = open_dataset("memory://birds/birds.csv", cache=cache)
    assert [record.path for record in dataset.records] == ["wren/0.png", "gull/1.png"]
    assert decode_photo(dataset.photo(dataset.records[1])).getpixel((0, 0)) == (0, 20, 90)


def test_a_table_at_a_url_that_names_no_photo_is_refused_by_its_url(memory, cache):
    fill(memory, "/birds", PHOTOS | {"birds.csv": b"path,label\nwren/7.png,wren\n"})
    with pytest.raises(
        DataError, match=r"^memory://birds/birds.csv:2: no file 'wren/7.png'.*relative to memory://birds"
    ):
        open_dataset("memory://birds/birds.csv", cache=cache)


@pytest.mark.parametrize("url", ["memory://tars", "memory://tars/{train,test}-{0..1}.tar", "memory://tars/train-0.tar"])
def test_tars_at_urls_are_read_by_ranges(memory, cache, tmp_path, url):
    pytest.importorskip("webdataset")
    for name in ("train-0.tar", "train-1.tar", "test-0.tar", "test-1.tar"):
        memory.pipe(f"/tars/{name}", write_tar(tmp_path / name, birds()).read_bytes())
    dataset = open_dataset(url, cache=cache)
    assert dataset.layout == "webdataset"
    record = next(record for record in dataset.records if record.path == "train-0.tar/gull-1")
    assert decode_photo(dataset.photo(record)).getpixel((0, 0)) == (40, 20, 90)
    assert not list((cache / "remote").rglob("*.tar/*"))


def test_names_that_lead_outside_write_nothing_outside(memory, cache, tmp_path):
    fill(memory, "/birds", PHOTOS)
    for name in ("/birds/../../../evil.txt", "/birds/a/../../../../evil.txt", "/birds//evil.txt"):
        memory.store[name] = memory.store["/birds/wren/0.png"]
    open_dataset("memory://birds", cache=cache)
    assert not list(tmp_path.rglob("evil*"))


def test_names_that_no_folder_can_hold_are_left_out_and_the_others_read(s3, cache):
    names = ("a b.png", "ü#1.png", "50%.png", "x=1&2.png", "[1]*.png")
    odd = {f"wren/{name}": png("red") for name in names}
    fill(s3, "birds/photos", PHOTOS | odd | {"wren": b"", "gull/" + "k" * 300 + ".png": png()})
    dataset = open_dataset("s3://birds/photos", cache=cache)
    assert {record.path for record in dataset.records} == {*PHOTOS, *odd}
    for record in dataset.records:
        assert decode_photo(dataset.photo(record)).size == (8, 6), record.path


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("memory://nothing", "memory://nothing cannot be reached: it is not there"),
        ("memory://birds/none.csv", "no file memory://birds/none.csv"),
        ("memory://birds/none.tar", "no file memory://birds/none.tar"),
        ("memory://birds/none-{0..3}.tar", "no file memory://birds/none-0.tar"),
        ("memory://birds/empty", "memory://birds/empty is empty"),
        ("nonsense://birds", "Protocol not known: nonsense"),
        ("http://127.0.0.1:9/birds", "no connection"),
    ],
)
def test_what_is_not_there_is_one_line(memory, cache, url, match):
    memory.mkdir("/birds/empty", create_parents=True)
    with pytest.raises(DataError, match=match):
        open_dataset(url, cache=cache)


@pytest.mark.parametrize(
    ("module", "url", "command"),
    [
        ("s3fs", "s3://birds/x", r"pip install 'flip-clip\[remote\]'"),
        ("gcsfs", "gs://birds/x", "pip install gcsfs"),
        ("adlfs", "az://birds/x", "pip install adlfs"),
    ],
)
def test_a_protocol_without_its_package_says_how_to_install_it(cache, monkeypatch, module, url, command):
    monkeypatch.setitem(sys.modules, module, None)
    known = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(known, url.partition("://")[0], raising=False)
    with pytest.raises(MissingDependencyError, match=command):
        open_dataset(url, cache=cache)


# A web server.


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a web server, and its folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()


def test_a_table_on_the_web_names_photos_beside_it(web, cache):
    pytest.importorskip("aiohttp")
    address, folder = web
    for name, data in PHOTOS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "birds.csv").write_text("path,label\nwren/0.png,wren\ngull/1.png,gull\n")
    dataset = open_dataset(f"{address}/birds.csv", cache=cache)
    assert decode_photo(dataset.photo(dataset.records[1])).getpixel((0, 0)) == (0, 20, 90)
    (folder / "birds.csv").write_text("path,label\nwren/0.png,wren\ngull/17.png,gull\n")
    with pytest.raises(DataError, match=r"birds.csv:3: no file 'gull/17.png'"):
        open_dataset(f"{address}/birds.csv", cache=cache)


def test_a_table_here_may_name_photos_by_urls_and_a_dead_one_costs_its_row(web, cache, tmp_path, tiny_model):
    pytest.importorskip("aiohttp")
    address, folder = web
    (folder / "wren.png").write_bytes(png("red"))
    (folder / "gull.png").write_bytes(png("blue"))
    rows = [f"{address}/{name},{name[:4]}" for name in ("wren.png", "gull.png", "gull-gone.png")]
    table = tmp_path / "birds.csv"
    table.write_text("\n".join(["path,label", *rows]))
    dataset = open_dataset(table)
    assert dataset.records[0].path == f"{address}/wren.png"
    features = extract_features(dataset, load_model(str(tiny_model)), cache=cache)
    assert features.errors == (None, None, "no such file")


@pytest.mark.parametrize("url", ["file:///etc/x.png", "ftp://example.org/x.png", "zip://x.png"])
def test_a_table_may_name_no_photo_by_other_protocols(tmp_path, url):
    table = tmp_path / "birds.csv"
    table.write_text(f"path,label\n{url},wren\n")
    with pytest.raises(DataError, match="is a URL that is not read"):
        open_dataset(table)


def test_a_clean_manifest_names_photos_by_their_urls(memory, cache, tmp_path):
    from flip.data.manifest_file import write_manifest

    fill(memory, "/birds", PHOTOS)
    write_manifest(open_dataset("memory://birds", cache=cache), tmp_path / "clean.csv")
    assert "memory://birds/wren/0.png,wren" in (tmp_path / "clean.csv").read_text()


# S3, as moto plays it.


def test_s3_is_read_as_a_folder_with_its_hashes(s3, cache):
    fill(s3, "birds/photos", PHOTOS)
    dataset = open_dataset("s3://birds/photos", cache=cache)
    assert [record.path for record in dataset.records] == sorted(PHOTOS)
    assert decode_photo(dataset.photo(dataset.records[0])).size == (8, 6)


def test_copies_at_s3_are_found_without_reading_them(s3, cache, monkeypatch):
    from flip.data.hashing import same_content

    fill(s3, "birds/photos", {"wren/1.png": png("red"), "gull/1.png": png("red"), "gull/2.png": png("blue")})
    dataset = open_dataset("s3://birds/photos", cache=cache)
    monkeypatch.setattr("flip.data.remote_mount.read_place", None)
    assert [group.tolist() for group in same_content(dataset.files)] == [[0, 2]]


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("s3://no-such-bucket/photos", "no-such-bucket/photos cannot be reached: .*bucket does not exist"),
        ("s3://no-such-bucket/photos.csv", "no file s3://no-such-bucket/photos.csv; check the bucket"),
        ("s3://birds/none", "it is not there"),
    ],
)
def test_what_s3_does_not_have_is_one_line(s3, cache, url, match):
    with pytest.raises(DataError, match=match):
        open_dataset(url, cache=cache)


def test_without_credentials_the_message_says_which_to_set(s3, cache, monkeypatch, tmp_path):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(DataError, match="no credentials that it takes .* AWS_ACCESS_KEY_ID"):
            open_dataset("s3://birds/photos", cache=cache)
    finally:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        s3fs.S3FileSystem.clear_instance_cache()
