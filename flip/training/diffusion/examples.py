"""Training examples of a diffusion model: photos as latents in several views, and the texts paired with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from flip.arrays import FloatArray
from flip.clip.prompts import data_prompts
from flip.data.dataset import Dataset, Photo
from flip.data.images import decode_photo
from flip.data.text import utf8
from flip.diffusion.texts import caption_prompt
from flip.errors import DataError
from flip.settings import Progress
from flip.training.crops import random_square
from flip.training.prefetch import prefetch

if TYPE_CHECKING:
    from flip.training.diffusion.types import Autoencoder, TextEncoder, Tokenizer

#: More views than fit into this are not kept, and more texts than fit into that are encoded each time.
_MOST_LATENT_BYTES = 8 << 30
_MOST_TEXT_BYTES = 2 << 30
_TOGETHER = 16


@dataclass(frozen=True)
class Example:
    """A training photo, the prompts of its class, and its captions with the class's name."""

    photo: Photo
    prompts: tuple[str, ...]
    captions: tuple[str, ...]

    @property
    def may_mirror(self) -> bool:
        """Whether the mirror image fits the captions: false where one of them says left or right."""
        return not any(re.search(r"\b(left|right)\b", caption, re.IGNORECASE) for caption in self.captions)


def read_examples(dataset: Dataset, prompts: str = "plain") -> list[Example]:
    """Return the training photos of a dataset.

    Raises
    ------
    DataError
        If the training split has no photo.
    ConfigError
        If ``prompts`` is none of what :func:`flip.clip.prompts.class_prompts` takes.
    """
    train = dataset.select("train")
    texts = data_prompts(prompts, train).texts
    return [
        Example(
            train.photo(record),
            texts[record.label],
            tuple(caption_prompt(train.classnames[record.label], caption) for caption in record.captions),
        )
        for record in train.records
    ]


def pixels(image: Image.Image) -> FloatArray:
    """Return an image as an autoencoder's input: (3, height, width), float32, -1 to 1."""
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1


class Views:
    """Every photo in several views, decoded ahead in threads: view 0 is the middle, the others are random crops.

    Parameters
    ----------
    examples : sequence of Example
    size : int
        Pixels per side.
    views : int
        Views of each photo.
    seed : int
        A view depends on the seed, the photo's number and the view's number alone.
    workers : int or None
        Threads.
    """

    def __init__(
        self, examples: Sequence[Example], size: int, views: int, seed: int, workers: int | None = None
    ) -> None:
        self._examples, self._size, self._seed, self._workers = examples, size, seed, workers
        self.views = views

    def read(self, number: int) -> FloatArray | None:
        """Return all views of a photo, (views, 3, size, size), or None when it cannot be read."""
        example = self._examples[number]
        try:
            image = decode_photo(example.photo)
        except DataError:
            return None
        squares = [random_square(image, self._size, None, mirror=False)]
        for view in range(1, self.views):
            generator = np.random.default_rng([self._seed, number, view])
            squares.append(random_square(image, self._size, generator, mirror=example.may_mirror))
        return np.stack([pixels(square) for square in squares])

    def __iter__(self) -> Iterator[tuple[int, FloatArray | None]]:
        """Yield each photo's number and views, in order."""
        count = len(self._examples)
        batches = (range(start, min(start + _TOGETHER, count)) for start in range(0, count, _TOGETHER))
        read = (future for futures in prefetch(self.read, batches, self._workers, ahead=1) for future in futures)
        for number, future in enumerate(read):
            yield number, future.result()


def affordable_views(wanted: int, examples: int, latent_bytes: int) -> int:
    """Return the number of views of each photo whose latents fit into memory, at least one."""
    return max(1, min(wanted, _MOST_LATENT_BYTES // max(1, examples * latent_bytes)))


@dataclass(frozen=True)
class Latents:
    """The autoencoder's posterior: means and deviations, float16 (n, views, channels, h, w), and photo numbers."""

    mean: torch.Tensor
    deviation: torch.Tensor
    numbers: tuple[int, ...]

    def draw(self, row: int, view: int, noise: torch.Tensor) -> torch.Tensor:
        """Draw one latent from the posterior with this noise, float32 (channels, h, w)."""
        return self.mean[row, view].float() + self.deviation[row, view].float() * noise


def encode_views(vae: Autoencoder, views: Views, device: torch.device, progress: Progress | None = None) -> Latents:
    """Encode every readable photo once.

    Raises
    ------
    DataError
        If none can be read.
    """
    means, deviations, numbers = [], [], []
    for number, batch in views:
        if batch is not None:
            with torch.inference_mode():
                posterior = vae.encode(torch.from_numpy(batch).to(device, vae.dtype)).latent_dist
            means.append(posterior.mean.half().cpu())
            deviations.append(posterior.std.half().cpu())
            numbers.append(number)
        if progress:
            progress(1)
    if not numbers:
        raise DataError("none of the training photos can be read; check the files")
    return Latents(torch.stack(means), torch.stack(deviations), tuple(numbers))


class TextBank:
    """Encoded texts for the U-Net, cached where they fit into memory, else encoded each time.

    Parameters
    ----------
    tokenizer, text_encoder : transformers' CLIPTokenizer and CLIPTextModel
    texts : sequence of str
        All that :meth:`take` may be asked for.
    frozen : bool
        The text encoder is not trained, so that its output can be cached.
    """

    def __init__(
        self, tokenizer: Tokenizer, text_encoder: TextEncoder, texts: Sequence[str], *, frozen: bool = True
    ) -> None:
        self._tokenizer, self._encoder = tokenizer, text_encoder
        self._rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        self._kept: torch.Tensor | None = None
        config = text_encoder.config
        size = len(self._rows) * tokenizer.model_max_length * config.hidden_size * 2
        if frozen and size <= _MOST_TEXT_BYTES:
            self._kept = self._keep(list(self._rows))

    def _keep(self, texts: list[str]) -> torch.Tensor:
        parts = []
        with torch.no_grad():
            for start in range(0, len(texts), 64):
                parts.append(self._encode(texts[start : start + 64]).half().cpu())
        return torch.cat(parts)

    def _encode(self, texts: list[str]) -> torch.Tensor:
        length = self._tokenizer.model_max_length
        texts = [utf8(text) for text in texts]
        tokens = self._tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        states: torch.Tensor = self._encoder(tokens.input_ids.to(self._encoder.device))[0]
        return states

    def take(self, texts: Sequence[str], device: torch.device) -> torch.Tensor:
        """Return the states (n, length, width) of n texts, with a gradient where the encoder is trained."""
        if self._kept is not None:
            return self._kept[[self._rows[text] for text in texts]].to(device, torch.float32)
        return self._encode(list(texts))
