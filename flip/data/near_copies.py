"""Near copies: two files that show the same picture, scaled, cropped, mirrored, brighter or compressed again.

Pairs that may be near copies come from two sources: dHashes that differ in few bits, and, where there are embeddings,
photos that are among each other's nearest. Either says too much (white backgrounds share hashes, and birds of one
species lie close), so every pair is laid over each other as thumbnails and compared pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from flip.arrays import Array, FloatArray
from flip.data.hashing import MOST_BITS, hash_signs, similar_pairs
from flip.data.looks import THUMBNAIL, Look
from flip.settings import Progress

#: Likeness from which a pair is one picture. Among 1,701 bird photos, pairs that are not reach 0.773; crops to 70 % or
#: more of each side, mirrored or not, reach it in 95 of 100 cases, and recompressed, brighter or noisy ones always.
LEAST_LIKENESS = 0.79
#: Photos with less difference between dark and bright than this are alike whatever they show.
LEAST_SPREAD = 0.08

#: The photos nearest to each that may be its near copies, where the other also has it among its own.
NEAREST = 3

#: Longest sides at which a pair is laid over each other roughly, then precisely.
_ROUGH, _FINE = 20, 48
#: The inner part of one photo is looked for in the other: what is at its margins may have been cut off, or added.
_INNER = 0.8
_SCALES = tuple(0.92**step for step in range(9))
_FINE_SCALES = tuple(1 + 0.01 * step for step in range(-6, 7))
#: Rough correlation below which no precise one is computed.
_HOPELESS = 0.6
#: Side of the blur that is taken off to compare details, at the size ``_FINE``.
_BLUR = 7


class NearCopy(NamedTuple):
    """Two rows, the first the lower, that show one picture, and their likeness, 1 for the same pixels."""

    first: int
    second: int
    likeness: float


def find_near_copies(
    looks: Sequence[Look], features: FloatArray | None = None, progress: Progress | None = None
) -> list[NearCopy]:
    """Return the pairs of near copies among n photos, in the order of their rows.

    Parameters
    ----------
    looks : sequence of n Look
        Photos that cannot be read, or have one colour, are no copies of anything.
    features : float32 array of shape (n, d), optional
        Unit rows; with them cut and mirrored copies are found that the dHash does not tell.
    progress : callable, optional
        Called with 1 for each pair that is compared.
    """
    rows = np.array([i for i, look in enumerate(looks) if look.error is None and look.spread >= LEAST_SPREAD], int)
    if len(rows) < 2:
        return []
    pairs = _alike_by_hash([looks[i] for i in rows])
    if features is not None:
        pairs |= mutual_nearest(features[rows])
    pictures = {int(row): _Picture(looks[row]) for row in rows}
    found = []
    for i, j in sorted(pairs):
        first, second = int(rows[i]), int(rows[j])
        likeness = pictures[first].likeness(pictures[second])
        if likeness >= LEAST_LIKENESS:
            found.append(NearCopy(first, second, likeness))
        if progress:
            progress(1)
    return found


def mutual_nearest(features: FloatArray, nearest: int = NEAREST, chunk: int = 2048) -> set[tuple[int, int]]:
    """Return the pairs i < j of rows that are each among the other's ``nearest`` by their product.

    Parameters
    ----------
    features : float32 array of shape (n, d)
    nearest : int
    chunk : int
        Rows that are compared with all others at once.
    """
    nearest = min(nearest, len(features) - 1)
    near: set[tuple[int, int]] = set()
    for start in range(0, len(features), chunk):
        products = features[start : start + chunk] @ features.T  # (chunk, n)
        own = np.arange(len(products))
        products[own, start + own] = -np.inf
        for i, row in zip(own + start, np.argpartition(-products, nearest - 1, axis=1)[:, :nearest], strict=True):
            near.update((int(i), int(j)) for j in row)
    return {(i, j) for i, j in near if i < j and (j, i) in near}


def _alike_by_hash(looks: Sequence[Look]) -> set[tuple[int, int]]:
    signs, mirrored = (
        hash_signs(np.stack([getattr(look, name) for look in looks])) for name in ("hash", "mirrored_hash")
    )
    least = signs.shape[1] - 2 * MOST_BITS
    return {*similar_pairs(signs, signs, least), *similar_pairs(signs, mirrored, least)}


class _Template(NamedTuple):
    """A part to look for, at zero mean and unit norm, and its scale beside the photo it was cut from."""

    pixels: FloatArray
    scale: float


class _Placed(NamedTuple):
    """Where a template lies best in another photo: correlation, row and column, and the template's scale."""

    correlation: float
    row: int
    column: int
    scale: float


class _Picture:
    """A thumbnail at the sizes at which it is laid over others; each is made when it is first needed."""

    def __init__(self, look: Look) -> None:
        self.full = look.thumbnail.astype(np.float32)

    @cached_property
    def mirrored(self) -> _Picture:
        other = _Picture.__new__(_Picture)
        other.full = np.ascontiguousarray(self.full[:, ::-1])
        return other

    @cached_property
    def rough(self) -> FloatArray:
        return _resized(self.full, _ROUGH / THUMBNAIL)

    @cached_property
    def fine(self) -> FloatArray:
        return _resized(self.full, _FINE / THUMBNAIL)

    @cached_property
    def inner(self) -> FloatArray:
        height, width = self.full.shape
        top, left = round(height * (1 - _INNER) / 2), round(width * (1 - _INNER) / 2)
        return np.ascontiguousarray(self.full[top : height - top, left : width - left])

    @cached_property
    def templates(self) -> list[_Template]:
        return [_Template(_resized(self.inner, scale * _ROUGH / THUMBNAIL), scale) for scale in _SCALES]

    def likeness(self, other: _Picture) -> float:
        """Return how far two show one picture, wherever one lies in the other and whether or not it is mirrored."""
        best = 0.0
        for turned in (other, other.mirrored):
            best = max(best, self._likeness_overlaid(turned))
            if best < LEAST_LIKENESS:
                best = max(best, self._likeness_within(turned), turned._likeness_within(self))
            if best >= LEAST_LIKENESS:
                break
        return best

    def _likeness_overlaid(self, other: _Picture) -> float:
        """Return the likeness of two whole photos, brought to one shape."""
        shape = self.fine.shape
        return _agreement(self.fine, _resized_to(other.full, shape[1], shape[0]))

    def _likeness_within(self, other: _Picture) -> float:
        """Return the likeness of the inner part of the other photo with the place in this one that it fits best."""
        placed = max(
            (_place(self.rough, template.pixels, template.scale) for template in other.templates),
            key=lambda placed: placed.correlation,
        )
        if placed.correlation < _HOPELESS:
            return 0.0
        best = 0.0
        row, column = (max(0, round(place * _FINE / _ROUGH) - 3) for place in (placed.row, placed.column))
        for change in _FINE_SCALES:
            template = _resized(other.inner, placed.scale * change * _FINE / THUMBNAIL)
            template = template[: self.fine.shape[0], : self.fine.shape[1]]
            height, width = template.shape
            top, left = min(row, self.fine.shape[0] - height), min(column, self.fine.shape[1] - width)
            region = self.fine[top : top + height + 6, left : left + width + 6]
            there = _place(region, template, change)
            if there.correlation > best:
                covered = region[there.row : there.row + height, there.column : there.column + width]
                best, agreement = there.correlation, _agreement(covered, template)
        return agreement if best else 0.0


def _place(photo: FloatArray, template: FloatArray, scale: float) -> _Placed:
    """Return where the template has the largest normalised cross-correlation with a photo of at least its size."""
    height, width = template.shape
    if height > photo.shape[0] or width > photo.shape[1]:
        return _Placed(-1.0, 0, 0, scale)
    windows = sliding_window_view(photo, template.shape)  # (rows, columns, height, width)
    flat = windows.reshape(-1, template.size)
    zero_mean = template.ravel() - template.mean()
    variation = np.einsum("ij,ij->i", flat, flat) - template.size * flat.mean(axis=1) ** 2
    # A window of one colour correlates with nothing: its variation counts as two grey levels at least.
    norms = np.sqrt(np.maximum(variation, 4.0 * template.size)) * max(float(np.linalg.norm(zero_mean)), 1e-6)
    correlations = flat @ zero_mean / norms
    best = int(correlations.argmax())
    row, column = divmod(best, windows.shape[1])
    return _Placed(float(correlations[best]), row, column, scale)


def _agreement(first: FloatArray, second: FloatArray) -> float:
    """Return the mean of the correlation of two images and that of their details.

    Dark shapes before a bright ground correlate whatever they are; their details do not.
    """
    return (_correlation(first, second) + _correlation(_details(first), _details(second))) / 2


def _details(image: FloatArray) -> FloatArray:
    from scipy.ndimage import uniform_filter

    return np.asarray(image - uniform_filter(image, _BLUR))


def _correlation(first: Array, second: Array) -> float:
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / (np.linalg.norm(first) * np.linalg.norm(second) + 1e-6))


def _resized(image: FloatArray, scale: float) -> FloatArray:
    height, width = image.shape
    return _resized_to(image, max(4, round(width * scale)), max(4, round(height * scale)))


def _resized_to(image: FloatArray, width: int, height: int) -> FloatArray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
