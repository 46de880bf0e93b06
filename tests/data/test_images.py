from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image, ImageFile

from flip.data.formats import FORMATS, IMAGE_EXTENSIONS, is_heif, is_image_file, is_photo, suffix_advice
from flip.data.images import decode_image
from flip.data.limits import MAX_PIXELS
from flip.errors import DataError


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def scene() -> Image.Image:
    """A photo of 60 x 40 whose corners differ, with noise so that it does not compress to nothing."""
    noise = np.random.default_rng(0).integers(0, 40, (40, 60, 3), dtype=np.uint8)
    noise[:20, :30, 0] += 200
    noise[:20, 30:, 1] += 200
    noise[20:, :30, 2] += 200
    return Image.fromarray(noise)


def same(left: Image.Image, right: Image.Image) -> bool:
    return left.mode == right.mode == "RGB" and np.array_equal(np.asarray(left), np.asarray(right))


def test_a_path_bytes_and_an_open_file_give_the_same_pixels(scene: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(scene, "PNG"))
    assert same(decode_image(path), scene)
    assert same(decode_image(path.read_bytes()), scene)
    with path.open("rb") as file:
        file.seek(5)
        assert same(decode_image(file), scene)
        assert not file.closed


def test_a_pipe_can_be_decoded(scene: Image.Image) -> None:
    data = encoded(scene.resize((10, 10)), "PNG")
    read, write = os.pipe()
    with os.fdopen(write, "wb") as end:
        end.write(data)
    with os.fdopen(read, "rb") as file:
        assert decode_image(file).size == (10, 10)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".txt", ""])
def test_the_content_decides_not_the_suffix(scene: Image.Image, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(encoded(scene, "PNG"))
    assert same(decode_image(path), scene)


# What each EXIF orientation does to an upright photo before it is stored.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied_once(scene: Image.Image, orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = scene.transpose(STORED[orientation])
    assert same(decode_image(encoded(stored, format, exif=exif)), scene)


def test_a_rotated_jpeg_is_upright(scene: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_image(encoded(scene.transpose(STORED[6]), "JPEG", exif=exif, quality=95))
    assert image.size == scene.size
    assert np.abs(np.asarray(image, float)[5:15, 5:25] - np.asarray(scene, float)[5:15, 5:25]).mean() < 20


def test_a_broken_exif_block_does_not_cost_the_photo(scene: Image.Image) -> None:
    data = encoded(scene, "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xffrubbish")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode_image(data).size == scene.size


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1", "P", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb_as_pillow_does_it(scene: Image.Image, mode: str) -> None:
    format = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    data = encoded(scene.convert(mode), format)
    assert same(decode_image(data), Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_cmyk_jpeg_keeps_its_colours(scene: Image.Image) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(np.asarray(decode_image(encoded(red, "JPEG", quality=95)), int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (4, 4), (200, 100, 50, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (200, 100, 50, 51)), (244, 224, 214)),
        (Image.new("RGBA", (4, 4), (200, 100, 50, 255)), (200, 100, 50)),
        (Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
    ],
)
def test_transparent_pixels_are_laid_on_white(image: Image.Image, expected: tuple[int, int, int]) -> None:
    assert decode_image(encoded(image, "PNG")).getpixel((0, 0)) == expected


@pytest.mark.parametrize(
    ("transparency", "first", "second"),
    [(0, [255, 255, 255], [0, 255, 0]), (b"\x00\x80\xff", [255, 255, 255], [127, 255, 127])],
)
def test_a_palette_with_transparency_is_laid_on_white_without_a_warning(
    transparency: int | bytes, first: list[int], second: list[int]
) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    data = encoded(image, "PNG", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_image(data)
    assert np.asarray(decoded).tolist() == [[first, second, [0, 0, 255]]]


def test_a_colour_that_stands_for_transparent_is_laid_on_white() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    data = encoded(image, "PNG", transparency=(10, 20, 30))
    assert np.asarray(decode_image(data)).tolist() == [[[255, 255, 255], [1, 2, 3]]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(format: str) -> None:
    wide = Image.fromarray(np.array([[0, 255, 256, 0x1234, 30000, 65535]], np.uint16))
    grey = [0, 0, 1, 0x12, 117, 255]
    assert np.asarray(decode_image(encoded(wide, format))).tolist() == [[[v] * 3 for v in grey]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize(("bits", "top"), [(8, 255), (10, 1023), (12, 4095), (14, 16383), (16, 65535)])
def test_grey_of_any_depth_is_scaled_by_its_range(format: str, bits: int, top: int) -> None:
    wide = Image.fromarray(np.array([[0, top // 2, top]], np.uint16))
    assert np.asarray(decode_image(encoded(wide, format)))[0, :, 0].tolist() == [0, 127, 255]


def test_a_declared_range_wins_over_the_brightest_pixel() -> None:
    dark = Image.fromarray(np.array([[0, 256, 512]], np.uint16))
    assert np.asarray(decode_image(encoded(dark, "TIFF", tiffinfo={281: 4095})))[0, :, 0].tolist() == [0, 16, 32]
    assert np.asarray(decode_image(encoded(dark, "TIFF")))[0, :, 0].tolist() == [0, 64, 128]


def png_of_wide_colour(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel, which Pillow reads and does not write; pixels (h, w, 3 or 4)."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(("top", "shift"), [(1023, 2), (4095, 4), (16383, 6), (65535, 8)])
def test_colour_of_any_depth_is_scaled_by_its_range(top: int, shift: int) -> None:
    pixels = np.random.default_rng(0).integers(0, top + 1, (6, 5, 3))
    pixels[0, 0] = top
    assert np.array_equal(np.asarray(decode_image(png_of_wide_colour(pixels))), pixels >> shift)


def test_wide_colour_keeps_its_transparency() -> None:
    pixels = np.full((2, 2, 4), 4095)
    pixels[..., 3] = [[0, 65535], [65535, 0]]
    pixels[..., 0] = 2048
    decoded = np.asarray(decode_image(png_of_wide_colour(pixels)))
    assert decoded.tolist() == [[[255] * 3, [128, 255, 255]], [[128, 255, 255], [255] * 3]]


def test_integers_wider_than_sixteen_bits_are_scaled_by_the_brightest() -> None:
    wide = Image.fromarray(np.array([[0, -5, 1_000_000, 2_000_000]], np.int32))
    assert np.asarray(decode_image(encoded(wide, "TIFF")))[0, :, 0].tolist() == [0, 0, 127, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 127, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 256.0, 65535.0], [0, 1, 255]),
        ([0.0, 50_000.0, 100_000.0], [0, 127, 255]),
        ([float("nan"), float("inf"), 1.0], [0, 0, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_float_pixels_are_scaled_by_their_range(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    assert np.asarray(decode_image(encoded(image, "TIFF")))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    image = decode_image(data)
    assert image.mode == "RGB"
    assert image.getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "ICO", "QOI", "IM"]
)
def test_usual_and_rare_raster_formats_are_read(scene: Image.Image, format: str) -> None:
    image = decode_image(encoded(scene.resize((32, 32)), format))
    assert (image.mode, image.size) == ("RGB", (32, 32))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "TGA", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_reported(scene: Image.Image, format: str, share: float) -> None:
    data = encoded(scene, format)
    with pytest.raises(DataError, match="truncated"):
        decode_image(data[: int(share * len(data))])


def test_a_broken_header_is_reported(scene: Image.Image) -> None:
    with pytest.raises(
        DataError, match=r"^broken or truncated image: it begins as PNG, but its header cannot be read$"
    ):
        decode_image(encoded(scene, "PNG")[:8] + b"\x00" * 30)


def test_a_text_file_called_jpg_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_text("404: not found")
    with pytest.raises(DataError, match=r"^not an image: its content is in no format that Pillow reads$"):
        decode_image(path)


def test_an_empty_file_is_reported() -> None:
    with pytest.raises(DataError, match="not an image: the file is empty"):
        decode_image(b"")


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"


def test_heic_names_what_to_install_and_its_licence() -> None:
    with pytest.raises(DataError, match=r"HEIC.*pip install pillow-heif \(its wheels are under the GPL\).*convert it"):
        decode_image(HEIC)


def test_heic_is_read_where_an_opener_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opener(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._mode, self._size = "RGB", (3, 2)

        def load(self) -> object:
            self.im = Image.new("RGB", (3, 2), "red").im
            return Image.Image.load(self)

    monkeypatch.setitem(Image.OPEN, "HEIF", (Opener, lambda head: head[4:8] == b"ftyp"))
    monkeypatch.setattr(Image, "ID", [*Image.ID, "HEIF"])
    assert decode_image(HEIC).getpixel((0, 0)) == (255, 0, 0)


def test_a_broken_heic_is_broken_where_an_opener_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SyntaxError("no HEIC")

    monkeypatch.setitem(Image.OPEN, "HEIF", (refuse, is_heif))
    monkeypatch.setattr(Image, "ID", [*Image.ID, "HEIF"])
    with pytest.raises(DataError, match="begins as HEIC, but its header cannot be read"):
        decode_image(HEIC)


@pytest.mark.parametrize("head", [b"\xff", b"BM", b"\0\0\1", b"RIF", b"II*"])
def test_a_few_bytes_are_told_without_a_library_s_words(head: bytes) -> None:
    with pytest.raises(DataError, match="not an image|broken or truncated image") as told:
        decode_image(head)
    assert "unpack" not in str(told.value)


@pytest.mark.parametrize("head", [b"\xff\x0a" + b"\0" * 20, b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 20])
def test_jpeg_xl_is_named_with_what_to_do(head: bytes) -> None:
    with pytest.raises(DataError, match=r"JPEG XL is not read; convert it to PNG, for example with djxl"):
        decode_image(head)


@pytest.mark.parametrize(
    "head", [b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0\0\0", b"\0\0\0\x18ftypcrx \0\0\0\1", b"FOVb\0\0\2\0"]
)
def test_camera_raw_is_named_by_its_content(head: bytes) -> None:
    with pytest.raises(DataError, match=r"camera raw is not read; convert it to JPEG or PNG"):
        decode_image(head + b"\0" * 20)


def test_camera_raw_that_is_a_tiff_is_not_read_as_its_thumbnail(scene: Image.Image, tmp_path: Path) -> None:
    plain = encoded(scene, "TIFF")
    assert decode_image(plain).size == scene.size
    path = tmp_path / "DSC_1.NEF"
    path.write_bytes(plain)
    tags = [{50706: b"\1\4\0\0"}, {254: 1, 330: 8}]
    for source in (path, *(encoded(scene, "TIFF", tiffinfo=tag) for tag in tags)):
        with pytest.raises(DataError, match="camera raw"):
            decode_image(source)


def test_a_photo_that_is_called_raw_is_read(scene: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(encoded(scene, "PNG"))
    assert same(decode_image(path), scene)


def test_eps_is_refused_and_starts_no_program(
    scene: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(scene, "EPS"))
    with pytest.raises(DataError, match="EPS"):
        decode_image(path)
    assert not ran.exists()


def test_no_format_is_read_that_is_a_stub_or_a_way_to_another_program() -> None:
    assert not {"EPS", "IPTC", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"} & set(FORMATS)
    assert {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000"} <= set(FORMATS)


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that declares this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("pillow_limit", ["Pillow's own", None])
def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch, pillow_limit: str | None) -> None:
    if pillow_limit is None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(DataError, match=r"^image too large: it declares more than 178,956,970 pixels$"):
        decode_image(bomb(60_000, 60_000))


def test_the_size_limit_leaves_pillows_own_alone() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert abs(MAX_PIXELS - 2 * Image.MAX_IMAGE_PIXELS) <= 2


def test_a_missing_file_and_a_folder_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no such file$"):
        decode_image(tmp_path / "absent.jpg")
    with pytest.raises(DataError, match=r"^cannot be read: "):
        decode_image(tmp_path)


def test_whatever_is_wrong_with_a_file_the_error_is_one_short_line(scene: Image.Image) -> None:
    rng = np.random.default_rng(1)
    messages = []
    for format in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "ICO", "PPM", "TGA", "SGI", "JPEG2000"):
        sound = np.frombuffer(encoded(scene, format), np.uint8)
        for _ in range(25):
            broken = sound.copy()
            broken[rng.integers(0, min(300, len(broken)), 6)] = rng.integers(0, 256, 6)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert decode_image(broken.tobytes()).mode == "RGB"
            except DataError as error:
                messages.append(str(error))
    assert len(messages) > 50
    assert all(len(message) < 200 and "\n" not in message and "0x" not in message for message in messages)


@pytest.mark.parametrize(
    ("box", "size", "corner"),
    [
        ((10, 5, 20, 30), (20, 30), (10, 5)),
        ((-10, -10, 30, 30), (20, 20), (0, 0)),
        ((50, 30, 100, 100), (10, 10), (50, 30)),
        ((1.5, 2.5, 2.0, 2.0), (3, 3), (1, 2)),
        ((0, 0, 60, 40), (60, 40), (0, 0)),
    ],
)
def test_the_box_is_cut_out_and_clipped(
    scene: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = decode_image(encoded(scene, "PNG"), box)
    assert image.size == size
    assert image.getpixel((0, 0)) == scene.getpixel(corner)


def test_the_box_counts_in_the_upright_photo(scene: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(scene.transpose(STORED[6]), "PNG", exif=exif)
    assert same(decode_image(data, (40, 0, 20, 10)), scene.crop((40, 0, 60, 10)))


@pytest.mark.parametrize("box", [(60, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, -1), (-9, 0, 9, 5), (0, 0, float("nan"), 5)])
def test_an_empty_box_is_an_error(scene: Image.Image, box: tuple[float, float, float, float]) -> None:
    with pytest.raises(DataError, match=r"empty box: .* holds no pixel of a photo of 60 x 40"):
        decode_image(encoded(scene, "PNG"), box)


@pytest.mark.parametrize("format", ["JPEG", "BMP", "TIFF", "GIF", "WEBP"])
def test_the_file_is_let_go_and_the_pixels_outlive_it(scene: Image.Image, tmp_path: Path, format: str) -> None:
    path = tmp_path / "photo"
    path.write_bytes(encoded(scene, format))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an unclosed file warns
        image = decode_image(path)
    before = np.array(image)
    path.write_bytes(b"\x00" * path.stat().st_size)
    assert np.array_equal(np.asarray(image), before)
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(image))), before)


def test_threads_decode_the_same_pixels(scene: Image.Image) -> None:
    files = [encoded(scene.rotate(i), "PNG") for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(decode_image, files))
    assert all(same(image, scene.rotate(i)) for i, image in enumerate(decoded))


@pytest.mark.parametrize("name", ["a.jpg", "b/A.JPEG", "x.y.png", "a.webp", "a.tiff", "IMG_1.HEIC", "a.mpo"])
def test_photos_are_told_by_their_names(name: str) -> None:
    assert is_image_file(name)
    assert is_image_file(PurePosixPath(name))


@pytest.mark.parametrize(
    "name", ["a.txt", "jpg", ".jpg", "._a.jpg", "b/._a.jpg", "Thumbs.db", "a.eps", "a.pdf", "a.h5", "a.jpg.json", ""]
)
def test_other_files_are_no_photos(name: str) -> None:
    assert not is_image_file(name)


def test_suffixes_are_lower_case_and_those_of_formats_that_are_read() -> None:
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_EXTENSIONS)
    assert {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"} <= IMAGE_EXTENSIONS
    assert not {".eps", ".ps", ".wmf", ".mpg", ".pdf", ".h5"} & IMAGE_EXTENSIONS


@pytest.mark.parametrize(
    "name", ["x.jpg?width=500", "x.jpg.1", "x.JPG.12", "x.jpeg!large", "x.png_large", "x", "a/b c"]
)
def test_names_with_something_behind_the_suffix_are_told_by_their_content(
    scene: Image.Image, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(encoded(scene, "JPEG"))
    assert is_photo(tmp_path, name)
    assert decode_image(file).size == scene.size
    file.write_text("<html>404</html>")
    assert not is_photo(tmp_path, name)


@pytest.mark.parametrize("name", ["x.jpg.json", "x.png.xml", "x.jpg.part", ".x.jpg?a=1", "x.txt", "absent"])
def test_other_names_are_no_photos_whatever_they_hold(scene: Image.Image, tmp_path: Path, name: str) -> None:
    if name != "absent":
        (tmp_path / name).write_bytes(encoded(scene, "JPEG"))
    assert not is_photo(tmp_path, name)


def test_what_to_do_with_other_suffixes() -> None:
    assert "convert" in suffix_advice(".nef")
    assert "djxl" in suffix_advice(".jxl")
    assert suffix_advice(".xyz") == ""


def test_a_box_may_leave_out_the_last_rows_of_any_photo(scene: Image.Image) -> None:
    data = encoded(scene, "PNG")
    assert same(decode_image(data, (0, 0, float("inf"), -15)), scene.crop((0, 0, 60, 25)))
    assert same(decode_image(data, (10, 5, float("inf"), 0)), scene.crop((10, 5, 60, 40)))
    with pytest.raises(DataError, match="empty box"):
        decode_image(data, (0, 0, float("inf"), -40))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>", "it is a web page, which a server sent instead"),
        (b"\n<html><body>404", "it is a web page, which a server sent instead"),
        (b'{"error": "not found"}', "it is JSON, such as a server's error"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is a drawing .SVG.; convert it to PNG"),
        (b"%PDF-1.4", "it is a PDF"),
    ],
)
def test_what_a_download_left_instead_of_a_photo_is_named(content, said, tmp_path):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=f"not an image: {said}"):
        decode_image(tmp_path / "a.jpg")


def test_a_photo_without_a_number_is_no_photo(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(DataError, match="none of its pixels is a number"):
        decode_image(tmp_path / "nan.tif")
