"""Image formats: those that are decoded, photo files by their names, and what other files are by how they begin."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from PIL import Image, ImageFile

from flip.data.foreign import what_it_is
from flip.reading import open_plain

# EPS starts Ghostscript. IPTC opens what it contains with every format, so it is a way to EPS. WMF is a drawing, which
# only Windows can paint. MPEG is recognised by Pillow, but its pixels cannot be read.
_REFUSED = frozenset({"EPS", "IPTC", "WMF", "MPEG"})
_USUAL = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

#: Suffixes of photos that Pillow decodes with a plugin only: listed as photos, so that each gets a row with its error.
_BY_PLUGIN = frozenset({".heic", ".heif"})

#: Formats that plugins register under these names; read where somebody registered them.
PLUGINS = ("HEIF", "AVIF", "JXL")
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"))

#: Camera raw files. Many are TIFFs by their content, of which Pillow would read the thumbnail.
_RAW = ".3fr .arw .cr2 .cr3 .dcr .dng .erf .iiq .kdc .mef .mrw .nef .nrw .orf .pef .raf .raw .rw2 .sr2 .srf .srw"
RAW_SUFFIXES = frozenset(_RAW.split())
_RAW_SIGNS = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb")
_JPEG_XL_SIGNS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
RAW_ADVICE = "camera raw is not read; convert it to JPEG or PNG"
_JPEG_XL_ADVICE = "JPEG XL is not read; convert it to PNG, for example with djxl"
_HEIC_ADVICE = (
    "HEIC is not read without an opener; pip install pillow-heif (its wheels are under the GPL), or convert it to JPEG"
)

# A photo's suffix with something behind it, as downloaders leave it: a query, a number, a size.
_SUFFIXED = re.compile(
    r"\.(?:jpe?g|png|webp|gif|bmp|tiff?|heic)(?:[?&!@#:;~].*|\.\d+|_(?:large|small|orig|medium))$", re.I
)
_SUFFIXES = ((b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"), (b"II*\0", ".tif"))
_PHOTO_SIGNS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")


def _safe_formats() -> tuple[str, ...]:
    """Return the raster formats that run no other program: usual ones first, those without a signature last."""
    Image.init()
    safe = [
        name
        for name, (factory, _) in Image.OPEN.items()
        if name not in _REFUSED
        and factory.__module__.startswith("PIL.")
        and not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))
    ]

    def place(name: str) -> tuple[int, bool]:
        usual = _USUAL.index(name) if name in _USUAL else len(_USUAL)
        return usual, Image.OPEN[name][1] is None

    return tuple(sorted(safe, key=place))


#: Names of the Pillow formats that are decoded, in the order they are tried.
FORMATS = _safe_formats()

#: Lower-case suffixes of those formats. (The JPEG reader also reads MPO.)
IMAGE_EXTENSIONS = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS or name == "MPO"
)

_LISTED = IMAGE_EXTENSIONS | _BY_PLUGIN


def is_image_file(path: str | PurePath) -> bool:
    """Return whether a file's name is that of a photo; hidden files (``.x``, ``._x``) are none, nor is Thumbs.db.

    Only the name is looked at. The suffixes are ``IMAGE_EXTENSIONS``, and HEIC, which phones write and Pillow decodes
    with a plugin only: such a photo is listed, so that it gets a row with its error rather than none.
    """
    name = path.name if isinstance(path, PurePath) else path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return bool(stem and dot) and stem[0] != "." and f".{suffix.lower()}" in _LISTED


def is_photo(folder: Path, path: str) -> bool:
    """Return whether a file is a photo by its name or, where the name leaves it open, by how its content begins.

    A name leaves it open that has something behind a photo's suffix (``x.jpg?width=500``, ``x.jpg.1``) or no suffix.

    Parameters
    ----------
    folder : Path
    path : str
        Relative to the folder, with ``/``.
    """
    if is_image_file(path):
        return True
    name = path.rpartition("/")[2]
    if name.startswith(".") or ("." in name and not _SUFFIXED.search(name)):
        return False
    try:
        with open_plain(folder / path) as file:
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_PHOTO_SIGNS) or (head[:4] == b"RIFF" and head[8:] == b"WEBP") or is_heif(head)


def photo_suffix(head: bytes) -> str:
    """Return the suffix for a photo that begins like this; what is unknown gets ``.jpg`` and is read all the same."""
    return next((suffix for sign, suffix in _SUFFIXES if head.startswith(sign)), ".jpg")


def suffix_advice(suffix: str) -> str:
    """Return what to do with files of a suffix that flip does not read, "" where it knows none."""
    if suffix in RAW_SUFFIXES:
        return "camera raw: convert them to JPEG or PNG"
    return {
        ".jxl": "JPEG XL: convert them to PNG, for example with djxl",
        ".svg": "drawings: convert them to PNG",
        ".eps": "PostScript: convert them to PNG",
        ".psd": "convert them to PNG",
        **dict.fromkeys((".xlsx", ".xls", ".ods"), "spreadsheets: save them as CSV"),
        **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), "videos: take frames from them"),
        **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), "archives: unpack them"),
    }.get(suffix, "")


def is_heif(head: bytes) -> bool:
    """Return whether a file that begins like this is HEIC or HEIF."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def why_unidentified(head: bytes) -> str:
    """Return why a file that begins like this is not read, and what to do."""
    if not head:
        return "not an image: the file is empty"
    if head.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):
        return "not an image: PostScript (EPS) is not read, since another program would have to run; convert it to PNG"
    if what := what_it_is(head):
        return f"not an image: it is {what}"
    for name in FORMATS:
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(head.ljust(16, b"\0")):
            return f"broken or truncated image: it begins as {name}, but its header cannot be read"
    if is_heif(head) and "HEIF" in Image.OPEN:
        return "broken or truncated image: it begins as HEIC, but its header cannot be read"
    if is_heif(head):
        return f"not read: {_HEIC_ADVICE}"
    if head[4:12] == b"ftypcrx " or head.startswith(_RAW_SIGNS):
        return f"not read: {RAW_ADVICE}"
    if head.startswith(_JPEG_XL_SIGNS):
        return f"not read: {_JPEG_XL_ADVICE}"
    if head[4:8] == b"ftyp":
        return "not an image: a video, or a photo in a video's format, is not read; convert it to JPEG"
    return "not an image: its content is in no format that Pillow reads"
