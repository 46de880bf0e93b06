"""Datasets from an address: the checksum, a download that is continued, and archives that would write elsewhere."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flip.data.fetch import CUB, Archive, download, fetch
from flip.data.open import open_dataset
from flip.data.transfer import receive
from flip.data.untar import unpack
from flip.errors import DataError
from tests.data.photographs import photograph


@dataclass
class Server:
    """A server of one file.

    ``breaks`` are the numbers of bytes after which it hangs up, one for each request; ``knows_ranges`` is whether it
    heeds Range; ``status`` is what it answers instead.
    """

    content: bytes = b""
    breaks: list[int] = field(default_factory=list)
    knows_ranges: bool = True
    status: int | None = None
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    """Serve ``server.content`` at ``server.url`` on this machine."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            if state.status is not None:
                self.send_error(state.status)
                return
            start = int(re.findall(r"\d+", asked)[0]) if asked and state.knows_ranges else 0
            if start and start >= len(state.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.breaks.pop(0)] if state.breaks else body)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_address[1]}/birds.tgz"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()


def tar(members: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    photograph(seed).save(buffer, "JPEG")
    return buffer.getvalue()


def small_cub() -> bytes:
    photos = [f"00{c}.Bird_{c}/Bird_{c}_{n}.jpg" for c in (1, 2) for n in (1, 2)]
    files = {
        "images.txt": "".join(f"{i} {photo}\n" for i, photo in enumerate(photos, 1)),
        "classes.txt": "1 001.Bird_1\n2 002.Bird_2\n",
        "image_class_labels.txt": "1 1\n2 1\n3 2\n4 2\n",
        "train_test_split.txt": "1 1\n2 0\n3 1\n4 0\n",
    }
    return tar(
        {
            **{f"CUB_200_2011/{name}": text.encode() for name, text in files.items()},
            **{f"CUB_200_2011/images/{photo}": jpeg(seed) for seed, photo in enumerate(photos)},
            "attributes.txt": b"1 has_bill\n",
        }
    )


def archive_at(server: Server) -> Archive:
    checksum = f"md5:{hashlib.md5(server.content).hexdigest()}"
    return Archive("cub", server.url, checksum, len(server.content), "CUB_200_2011")


def test_an_archive_is_fetched_checked_unpacked_and_read(server: Server, tmp_path: Path) -> None:
    server.content = small_cub()
    told: list[int] = []
    target = fetch(archive_at(server), tmp_path / "cub", tmp_path / "downloads", told.append)
    assert target == tmp_path / "cub" / "CUB_200_2011"
    dataset = open_dataset(tmp_path / "cub")
    assert (dataset.layout, len(dataset), dataset.splits) == ("cub", 4, {"train": 2, "test": 2})
    assert sum(told) == len(server.content)
    assert (target / "attributes.txt").is_file()
    assert list((tmp_path / "downloads").iterdir()) == []  # the archive takes no room once it is unpacked


@pytest.mark.parametrize("breaks", [[1000], [10, 5000, 1], [0, 0, 3000, 0]])
def test_a_broken_download_is_continued(server: Server, tmp_path: Path, breaks: list[int]) -> None:
    server.content, server.breaks = small_cub(), list(breaks)
    told: list[int] = []
    receive(server.url, tmp_path / "part", told.append, wait=lambda _: None)
    assert (tmp_path / "part").read_bytes() == server.content
    assert sum(told) == len(server.content)
    expected, length = [], 0
    for size in (*breaks, None):
        expected.append(f"bytes={length}-" if length else None)
        length += size or 0
    assert server.asked == expected


def test_a_later_run_continues_what_an_earlier_one_received(server: Server, tmp_path: Path) -> None:
    server.content = small_cub()
    (tmp_path / "birds.tgz.part").write_bytes(server.content[:700])
    assert download(archive_at(server), tmp_path).read_bytes() == server.content
    assert server.asked == ["bytes=700-"]


def test_a_whole_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.content = small_cub()
    (tmp_path / "birds.tgz.part").write_bytes(server.content)
    assert download(archive_at(server), tmp_path).read_bytes() == server.content
    assert len(server.asked) == 1


def test_a_server_without_ranges_begins_again(server: Server, tmp_path: Path) -> None:
    server.content, server.knows_ranges = small_cub(), False
    (tmp_path / "birds.tgz.part").write_bytes(b"something else")
    assert download(archive_at(server), tmp_path).read_bytes() == server.content


def test_a_part_of_a_longer_file_begins_again(server: Server, tmp_path: Path) -> None:
    server.content = small_cub()
    (tmp_path / "birds.tgz.part").write_bytes(server.content + b"more")
    assert download(archive_at(server), tmp_path).read_bytes() == server.content


@pytest.mark.parametrize("content", [b"", b"<html>not here</html>", small_cub()[:-1]])
def test_another_checksum_is_refused_and_deleted(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = small_cub()
    archive = archive_at(server)
    server.content = content
    with pytest.raises(DataError, match="checksum") as error:
        fetch(archive, tmp_path / "cub", tmp_path / "downloads")
    assert archive.checksum in str(error.value)
    assert list((tmp_path / "downloads").iterdir()) == []
    assert not (tmp_path / "cub" / "CUB_200_2011").exists()


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 3)])
def test_an_address_that_refuses(server: Server, tmp_path: Path, status: int, tries: int) -> None:
    server.status = status
    with pytest.raises(DataError, match=str(status)) as error:
        receive(server.url, tmp_path / "birds.tgz.part", wait=lambda _: None)
    assert "download it yourself" in str(error.value)
    assert len(server.asked) == tries


def test_an_address_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be reached"):
        receive("http://127.0.0.1:9/x.tgz", tmp_path / "x.tgz.part", wait=lambda _: None)


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/etc/evil.txt", "CUB_200_2011/../../evil.txt", "C:/evil.txt", "CUB_200_2011\\..\\..\\evil.txt"],
)
def test_members_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.tgz").write_bytes(tar({"CUB_200_2011/images.txt": b"1 a.jpg\n", name: b"evil"}))
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="leads outside"):
        unpack(tmp_path / "x.tgz", tmp_path / "out", "CUB_200_2011")
    assert list((tmp_path / "out").iterdir()) == []
    assert not list(tmp_path.rglob("evil*"))


def test_links_are_refused(tmp_path: Path) -> None:
    for target in ("/etc/passwd", "../../x", "images.txt"):
        (tmp_path / "x.tgz").write_bytes(tar({"a/images.txt": b"1"}, links={"a/link": target}))
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="is a link or a device"):
            unpack(tmp_path / "x.tgz", tmp_path / "out", "a")
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("content", [b"no archive", small_cub()[:400], b""])
def test_what_is_no_archive_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tgz").write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "x.tgz", tmp_path / "out", "a")


def test_the_published_archive() -> None:
    assert CUB.file_name == "CUB_200_2011.tgz"
    assert CUB.url.startswith("https://data.caltech.edu/")
    assert re.fullmatch(r"md5:[0-9a-f]{32}", CUB.checksum)
