"""Faults of single photos: files that cannot be read, and pixels that show little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from PIL import Image

from flip.data.audit import Check, Finding, Subject
from flip.data.looks import Look
from flip.data.near_copies import LEAST_SPREAD

#: A photo whose shorter side has no more pixels than this shows a network nothing.
TINY_SIDE = 64
#: More pixels than the first are huge, and more than the second where the dataset's median photo has 20 times fewer.
HUGE_PIXELS, LARGE_PIXELS, TIMES_THE_MEDIAN = 50_000_000, 10_000_000, 20
#: A photo is dark if 99 % of it are darker than the first, or its mean is below the second. Of 1,701 bird photos the
#: darkest have 0.44 and 0.09.
DARK_BRIGHT, DARK_MEAN = 0.3, 0.05
#: A photo is blurred if its sharpness or its detail is below this. Of 1,701 bird photos the softest have 0.71 and 38;
#: a Gaussian blur of 2 pixels brings all of them below.
SOFT, NO_DETAIL = 0.62, 12
#: A picture is drawn, or noise, if it has so few of the grey levels in its range, or neighbouring pixels differ so. Of
#: 1,701 bird photos the most extreme have 0.35 and 0.45.
FEW_LEVELS, NOISE = 0.25, 0.35
#: Pictures that are drawn are outliers where they are no more than this share of a dataset.
MOST_DRAWN = 0.05


def _unreadable(subject: Subject) -> Iterator[Finding]:
    for i, look in enumerate(subject.looks):
        if look.error is not None and not _is_truncated(look):
            yield subject.finding(i, look.error)


def _truncated(subject: Subject) -> Iterator[Finding]:
    for i, look in enumerate(subject.looks):
        if look.error is not None and _is_truncated(look):
            yield subject.finding(i, look.error)


def _is_truncated(look: Look) -> bool:
    return look.error is not None and look.error.startswith("truncated")


def _wrong_suffix(subject: Subject) -> Iterator[Finding]:
    suffixes = Image.registered_extensions()
    for i, look in enumerate(subject.looks):
        suffix = PurePath(subject.dataset.records[i].path).suffix.lower()
        expected = suffixes.get(suffix)
        # A phone's several-picture files are JPEGs, and called so.
        if look.format and expected and expected != look.format and {expected, look.format} != {"JPEG", "MPO"}:
            yield subject.finding(i, f"holds {look.format}, and its name ends in {suffix}")


def _tiny(subject: Subject) -> Iterator[Finding]:
    for i, look in _readable(subject):
        if min(look.width, look.height) <= TINY_SIDE:
            yield subject.finding(i, f"{look.width} x {look.height} pixels", min(look.width, look.height))


def _huge(subject: Subject) -> Iterator[Finding]:
    sizes = sorted(look.width * look.height for _, look in _readable(subject))
    median = sizes[len(sizes) // 2] if sizes else 0
    for i, look in _readable(subject):
        pixels = look.width * look.height
        if pixels > HUGE_PIXELS or (pixels > LARGE_PIXELS and pixels > TIMES_THE_MEDIAN * median):
            yield subject.finding(i, f"{look.width} x {look.height} pixels", pixels)


def _flat(subject: Subject) -> Iterator[Finding]:
    for i, look in _readable(subject):
        if _is_flat(look) and not _is_dark(look):
            yield subject.finding(i, "one colour nearly everywhere", look.spread)


def _dark(subject: Subject) -> Iterator[Finding]:
    for i, look in _readable(subject):
        if _is_dark(look):
            yield subject.finding(i, f"99 % of it are darker than {100 * look.bright:.0f} % of white", look.bright)


def _blurred(subject: Subject) -> Iterator[Finding]:
    for i, look in _readable(subject):
        soft = look.sharpness < SOFT or look.detail < NO_DETAIL
        if soft and not (_is_dark(look) or _is_flat(look) or min(look.width, look.height) <= TINY_SIDE):
            yield subject.finding(i, f"no sharp edge anywhere (sharpness {look.sharpness:.2f})", look.sharpness)


def _readable(subject: Subject) -> Iterator[tuple[int, Look]]:
    return ((i, look) for i, look in enumerate(subject.looks) if look.error is None)


def _is_flat(look: Look) -> bool:
    return look.spread < LEAST_SPREAD


def _is_dark(look: Look) -> bool:
    return look.bright < DARK_BRIGHT or look.mean < DARK_MEAN


def drawn(subject: Subject) -> set[int]:
    """Return the rows whose picture is drawn, or noise; none where they are many, as in a dataset of drawings."""
    rows = {i for i, look in enumerate(subject.looks) if _is_drawn(look)}
    return rows if len(rows) <= max(1, MOST_DRAWN * len(subject.looks)) else set()


def _is_drawn(look: Look) -> bool:
    if look.error is not None or _is_flat(look) or _is_dark(look):
        return False
    return look.neighbours < NOISE or look.levels < FEW_LEVELS * 255 * look.spread


CHECKS = (
    Check("unreadable", "error", True, ("photos",), _unreadable),
    Check("truncated", "error", True, ("photos",), _truncated),
    Check("flat", "warning", True, ("photos",), _flat),
    Check("dark", "warning", True, ("photos",), _dark),
    Check("blurred", "warning", True, ("photos",), _blurred),
    Check("tiny", "warning", True, ("photos",), _tiny),
    Check("huge", "warning", True, ("photos",), _huge),
    Check("wrong-suffix", "note", False, ("photos",), _wrong_suffix),
)
