"""Training examples: photos with labels, the texts each may be paired with, and an epoch's draw of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from flip.arrays import BoolArray, Float64Array, IntArray
from flip.clip.prompts import ClassPrompts
from flip.data.dataset import Dataset, Record
from flip.data.matching import match_classes
from flip.embed.keys import Source
from flip.training.clip.sampler import balanced_rows
from flip.training.crops import CROP_NUMBERS


@dataclass(frozen=True)
class Examples:
    """Training photos and the texts they may be paired with.

    Attributes
    ----------
    sources : tuple of n Source
    labels : int array of shape (n,)
    generated : bool array of shape (n,)
        Generated images of ``--augmented``.
    captions : tuple of n tuples of int
        Rows of ``tokens``: each photo's own captions.
    prompts : tuple of c tuples of int
        Rows of ``tokens``: each class's prompts.
    tokens : int64 tensor of shape (t, context_length)
        Every text once.
    cut : int
        Number of the t texts that are longer than the context.
    """

    sources: tuple[Source, ...]
    labels: IntArray
    generated: BoolArray
    captions: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...]
    tokens: torch.Tensor
    cut: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def real(self) -> int:
        """Number of real photos."""
        return int((~self.generated).sum())

    def without_photos(self) -> Examples:
        """Return the same texts without a photo."""
        return replace(self, sources=(), labels=self.labels[:0], generated=self.generated[:0], captions=())

    def draw_texts(self, rows: IntArray, caption_share: float, rng: np.random.Generator) -> IntArray:
        """Return a row of ``tokens`` for each photo, shape (len(rows),): one of its captions or its class's prompts."""
        chance = rng.random((len(rows), 2))  # a caption or a prompt, and which one
        texts = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            captions, prompts = self.captions[row], self.prompts[self.labels[row]]
            pool = captions if captions and chance[i, 0] < caption_share else prompts
            texts[i] = pool[int(chance[i, 1] * len(pool))]
        return texts


class EpochDraw(NamedTuple):
    """An epoch's photos: rows (slots,), texts (slots,), and the random numbers of each crop (slots, 5)."""

    rows: IntArray
    texts: IntArray
    crops: Float64Array


def draw_epoch(
    examples: Examples, slots: int, *, seed: int, epoch: int, caption_share: float, generated_share: float = 0.0
) -> EpochDraw:
    """Return the draw of an epoch; it depends on the seed and the epoch alone, so a resumed run sees the same."""
    rng = np.random.default_rng([seed, epoch])
    rows = balanced_rows(examples.labels, slots, rng, generated=examples.generated, generated_share=generated_share)
    return EpochDraw(rows, examples.draw_texts(rows, caption_share, rng), rng.random((slots, CROP_NUMBERS)))


def make_examples(
    dataset: Dataset,
    prompts: ClassPrompts,
    tokenize: Callable[..., torch.Tensor],
    *,
    crop: bool = False,
    augmented: Dataset | None = None,
) -> Examples:
    """Return the photos of a dataset and the texts they may be paired with, every text tokenised once.

    Parameters
    ----------
    dataset : Dataset
        Training photos only.
    prompts : ClassPrompts
    tokenize : callable
        The model's: list of n texts → int64 tensor (n, context_length).
    crop : bool
    augmented : Dataset, optional
        Generated images of the same classes, under the same names.

    Raises
    ------
    DataError
        If ``augmented`` has a class that the dataset has not.
    """
    records = [(record, dataset.root, False) for record in dataset.records]
    if augmented is not None:
        records += [(record, augmented.root, True) for record in _relabelled(augmented, dataset.classnames)]
    row: dict[str, int] = {}
    captions = tuple(tuple(row.setdefault(c, len(row)) for c in record.captions) for record, _, _ in records)
    classes = tuple(tuple(row.setdefault(text, len(row)) for text in texts) for texts in prompts.texts)
    tokens, cut = _tokenized(list(row), tokenize)
    return Examples(
        tuple(Source(str(root / record.path), record.region(crop)) for record, root, _ in records),
        np.array([record.label for record, _, _ in records], np.int64),
        np.array([generated for _, _, generated in records], bool),
        *(captions, classes, tokens, cut),
    )


def _relabelled(augmented: Dataset, classnames: Sequence[str]) -> list[Record]:
    labels = match_classes(augmented.classnames, classnames, f"--augmented {augmented.root}")
    return [r._replace(label=int(labels[r.label])) for r in augmented.records]


def _tokenized(texts: list[str], tokenize: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Return the tokens of texts (t, context_length), and the number of texts longer than the context."""
    tokens: torch.Tensor = tokenize(texts).long()
    context = tokens.shape[1]
    # In twice the context a text that fits is followed by padding alone.
    wide = tokenize(["", *texts], context_length=2 * context)
    return tokens, int((wide[1:, context:] != wide[0, -1]).any(dim=1).sum())
