"""What is learned from: photos with labels, the texts each may be paired with, and an epoch's draw of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from flip.clip.prompts import ClassPrompts, fold
from flip.data.dataset import Dataset, Record
from flip.embed.stream import Source
from flip.errors import DataError
from flip.training.clip.sampler import BoolArray, IntArray, balanced_rows

#: Random numbers a photo's view is made from: area, shape, left, top, mirror.
VIEW_NUMBERS = 5


@dataclass(frozen=True)
class Examples:
    """Training photos and the texts they may be paired with.

    Attributes
    ----------
    sources : tuple of n Source
    labels : int array of shape (n,)
    extra : bool array of shape (n,)
        Photos of ``--augmented``.
    captions : tuple of n tuples of int
        Rows of ``tokens``: each photo's own captions.
    prompts : tuple of c tuples of int
        Rows of ``tokens``: each class's prompts.
    tokens : int64 tensor of shape (t, context_length)
        Every text once.
    cut : int
        How many of the t texts are longer than the context.
    """

    sources: tuple[Source, ...]
    labels: IntArray
    extra: BoolArray
    captions: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...]
    tokens: torch.Tensor
    cut: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def own(self) -> int:
        """Number of photos that are not extra."""
        return int((~self.extra).sum())

    def none(self) -> Examples:
        """Return the same texts without a photo."""
        return replace(self, sources=(), labels=self.labels[:0], extra=self.extra[:0], captions=())

    def draw_texts(self, rows: IntArray, caption_share: float, rng: np.random.Generator) -> IntArray:
        """Return a text (row of ``tokens``) for each photo: one of its captions, or one of its class's prompts."""
        chance = rng.random((len(rows), 2))
        texts = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            captions, prompts = self.captions[row], self.prompts[self.labels[row]]
            pool = captions if captions and chance[i, 0] < caption_share else prompts
            texts[i] = pool[int(chance[i, 1] * len(pool))]
        return texts


class Draw(NamedTuple):
    """An epoch: the photo of each place (slots,), its text (slots,), and the numbers of its view (slots, 5)."""

    rows: IntArray
    texts: IntArray
    views: npt.NDArray[np.float64]


def draw_epoch(
    examples: Examples, slots: int, *, seed: int, epoch: int, caption_share: float, extra_share: float = 0.0
) -> Draw:
    """Return what an epoch shows; it depends on the seed and the epoch alone, so a resumed run sees the same."""
    rng = np.random.default_rng([seed, epoch])
    rows = balanced_rows(examples.labels, slots, rng, extra=examples.extra, extra_share=extra_share)
    return Draw(rows, examples.draw_texts(rows, caption_share, rng), rng.random((slots, VIEW_NUMBERS)))


def make_examples(
    dataset: Dataset,
    prompts: ClassPrompts,
    tokenize: Callable[..., Any],
    *,
    crop: bool = False,
    augmented: Dataset | None = None,
) -> Examples:
    """Gather the photos of a dataset and the texts they may be paired with, every text tokenised once.

    Parameters
    ----------
    dataset : Dataset
        Training photos only.
    prompts : ClassPrompts
        Of the dataset's classes.
    tokenize : callable
        The model's: list of n texts → int64 tensor (n, context_length).
    crop : bool
        Cut photos to their boxes.
    augmented : Dataset, optional
        More photos of the same classes, under the same names.

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
        tuple(Source(str(root / record.path), record.box if crop else None) for record, root, _ in records),
        np.array([record.label for record, _, _ in records], np.int64),
        np.array([extra for _, _, extra in records], bool),
        captions,
        classes,
        tokens,
        cut,
    )


def _relabelled(augmented: Dataset, classnames: Sequence[str]) -> list[Record]:
    label = {fold(name): c for c, name in enumerate(classnames)}
    unknown = [name for name in augmented.classnames if fold(name) not in label]
    if unknown:
        raise DataError(
            f"--augmented {augmented.root} has class {unknown[0]!r}, which is not among the {len(classnames)} classes "
            "that are trained; its class folders must bear their names"
        )
    return [r._replace(label=label[fold(augmented.classnames[r.label])]) for r in augmented.records]


def _tokenized(texts: list[str], tokenize: Callable[..., Any]) -> tuple[torch.Tensor, int]:
    """Return the tokens of texts (t, context_length), and how many are cut because they are longer than the context."""
    tokens: torch.Tensor = tokenize(texts).long()
    context = tokens.shape[1]
    # In twice the context a text that fits is followed by padding alone.
    wide = tokenize(["", *texts], context_length=2 * context)
    return tokens, int((wide[1:, context:] != wide[0, -1]).any(dim=1).sum())
