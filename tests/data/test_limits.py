"""Limits of decoding one photo."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from flip.data import limits
from flip.data.images import decode_image
from flip.data.limits import Timed
from flip.errors import DataError


def packed(image: Image.Image, kind: str, **save: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **save)
    return content.getvalue()


def with_scans(data: bytes, count: int) -> bytes:
    """A progressive JPEG with its last scan repeated."""
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * count + b"\xff\xd9"


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_progressive_jpeg_of_many_scans_is_refused_at_once(mode: str) -> None:
    plain = packed(Image.new(mode, (3000, 2000)), "JPEG", progressive=True)
    assert decode_image(plain).size == (3000, 2000)
    began = time.thread_time()
    with pytest.raises(DataError, match=r"^image too slow: it goes over its 6,000,000 pixels 1,0\d\d times$"):
        decode_image(with_scans(plain, 1000))
    assert time.thread_time() - began < 2


def test_the_scans_of_a_jpeg_in_a_tiff_are_counted_per_strip() -> None:
    strips = packed(Image.new("RGB", (64, 4096), "olive"), "TIFF", compression="jpeg", strip_size=64 * 16 * 3)
    assert strips.count(b"\xff\xda") > 100
    assert decode_image(strips).size == (64, 4096)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("WEBP", "RGB"), ("JPEG2000", "RGB"), ("TIFF", "I;16")])
def test_pixels_are_bounded_by_the_memory_that_their_kind_takes(
    monkeypatch: pytest.MonkeyPatch, kind: str, mode: str
) -> None:
    data = packed(Image.new(mode, (500, 400)), kind)
    assert decode_image(data).size == (500, 400)
    monkeypatch.setattr(limits, "MOST_BYTES", 200_000)
    monkeypatch.setattr(limits, "_SLOW", {"JPEG2000": 100_000})
    with pytest.raises(DataError, match=r"^image too large: it declares more than [\d,]+ pixels, the most of "):
        decode_image(data)


def test_decoding_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow's reader of this format is written in Python, and takes a minute for a photo of this size.
    data = packed(Image.new("RGB", (2000, 1500)), "DDS")
    monkeypatch.setattr(Timed.__init__, "__defaults__", (0.2,))
    with pytest.raises(DataError, match=r"^image too slow: decoding it takes more than 0.2 s$"):
        decode_image(data)


def test_threads_share_the_memory_for_decoding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(np.zeros((200, 300, 3), np.uint8)).save(file)
    memory, most, now, lock = limits._Memory(2 * 8 * 60_000), [0], [0], threading.Lock()
    monkeypatch.setattr(limits, "_MEMORY", memory)
    load = ImageFile.ImageFile.load

    def counted(self: ImageFile.ImageFile) -> object:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    threads = [threading.Thread(target=decode_image, args=(file,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 1 <= most[0] <= 2
    assert memory._taken == 0
