"""Encoders: what ``embed/`` asks of a model. Pixels and texts meet the network here, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from flip.arrays import Array, FloatArray
from flip.clip.geometry import Geometry
from flip.clip.network import LoadedModel
from flip.clip.preparing import Preparer
from flip.clip.tower import ImageTower, split_preprocess
from flip.device import Placement, resolve_device
from flip.files import JsonObject
from flip.settings import Progress

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from flip.clip.network import ClipNetwork

#: Texts that go through the network together, and texts that are sorted by length before they are divided into these.
TEXT_BATCH, TEXTS_SORTED = 64, 4096


class Encoder(Protocol):
    """A dual encoder; any object with these attributes and methods can be embedded with."""

    @property
    def name(self) -> str:
        """The model as users are told of it."""

    @property
    def fingerprint(self) -> str:
        """Changes with everything an embedding depends on; embeddings are cached under it."""

    @property
    def dim(self) -> int:
        """Width d of an embedding."""

    @property
    def logit_scale(self) -> float:
        """The factor between cosine similarities and logits."""

    def prepare(self, image: Image) -> Array:
        """Return an RGB image as the network takes it; called in many threads at once."""

    def encode_images(self, prepared: Sequence[Array]) -> FloatArray:
        """Return unit embeddings, float32 of shape (n, d), of n prepared images."""

    def encode_texts(self, texts: Sequence[str], progress: Progress | None = None) -> FloatArray:
        """Return unit embeddings, float32 of shape (n, d), of n texts."""


@runtime_checkable
class PlaceableEncoder(Encoder, Protocol):
    """An encoder that runs on a device and in a number format of flip's choice."""

    def placed(self, placement: Placement, precision: str = "fp32", *, flip: bool = False) -> Encoder:
        """Return the encoder there; with ``flip`` it encodes each photo as the mean of itself and its mirror image."""


@dataclass(frozen=True)
class ModelFacts:
    """All that an answer from cached embeddings needs of a model; known without its network.

    Attributes
    ----------
    name : str
        As ``--model`` was given.
    fingerprint : str
        16 hex digits over config, activation, weights and preprocessing.
    dim : int
        Width d of an embedding.
    logit_scale : float
        As the model learned it.
    context_length : int
        Tokens of a text that are read.
    config : dict
        ``model_cfg`` and ``preprocess_cfg``, as ``open_clip_config.json`` would hold them.
    """

    name: str
    fingerprint: str
    dim: int
    logit_scale: float
    context_length: int
    config: JsonObject


class LazyModel:
    """A model that is loaded when it is first asked for, and then kept.

    Parameters
    ----------
    model : LoadedModel or callable
        The model, or what loads it.
    """

    def __init__(self, model: LoadedModel | Callable[[], LoadedModel]) -> None:
        self._model = model
        # Photos are prepared in many threads, and each of them may be the first to ask.
        self._lock = threading.Lock()

    def get(self) -> LoadedModel:
        """Return the model, loading it now if it was not."""
        with self._lock:
            if not isinstance(self._model, LoadedModel):
                self._model = self._model()
            return self._model

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return isinstance(self._model, LoadedModel)


class OpenClipEncoder:
    """An open_clip model that loads its network at first use.

    Parameters
    ----------
    facts : ModelFacts
    model : LazyModel
    placement : Placement, optional
        Found at first use without it.
    precision : {"fp32", "bf16", "fp16"}
        Number format of the image tower; texts are always encoded in fp32.
    flip : bool
        Encode each photo as the mean of itself and its mirror image.
    unit : bool
        Bring embeddings to unit length.
    """

    def __init__(
        self,
        facts: ModelFacts,
        model: LazyModel,
        placement: Placement | None = None,
        precision: str = "fp32",
        *,
        flip: bool = False,
        unit: bool = True,
    ) -> None:
        self.facts = facts
        self.precision = precision
        self._model, self._placement, self._flip, self._unit = model, placement, flip, unit

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, embeddings of {self.dim}, {self.precision}>"

    def placed(self, placement: Placement, precision: str = "fp32", *, flip: bool = False) -> OpenClipEncoder:
        """Return this model on a device and in a number format; both share one network."""
        return OpenClipEncoder(self.facts, self._model, placement, precision, flip=flip, unit=self._unit)

    def unnormalized(self) -> OpenClipEncoder:
        """Return this encoder with embeddings as the network gives them, not of unit length."""
        return OpenClipEncoder(self.facts, self._model, self._placement, self.precision, flip=self._flip, unit=False)

    @property
    def name(self) -> str:
        """As ``--model`` was given."""
        return self.facts.name

    @property
    def fingerprint(self) -> str:
        """16 hex digits over config, activation, weights and preprocessing."""
        return self.facts.fingerprint

    @property
    def dim(self) -> int:
        """Width d of an embedding."""
        return self.facts.dim

    @property
    def config(self) -> JsonObject:
        """``model_cfg`` and ``preprocess_cfg``, as ``open_clip_config.json`` would hold them."""
        return self.facts.config

    @cached_property
    def geometry(self) -> Geometry | None:
        """Resize and crop of the preprocessing, for scaled decoding; None if scaled decoding does not support it."""
        return Geometry.of(self.facts.config["preprocess_cfg"])

    def preparer(self) -> Preparer:
        """Return an object that prepares photos as this encoder does, without its network."""
        return Preparer(self.facts.config["preprocess_cfg"])

    @property
    def context_length(self) -> int:
        """Tokens of a text that are read."""
        return self.facts.context_length

    @property
    def logit_scale(self) -> float:
        """The factor between cosine similarities and logits: the network's, which training changes, once it is here."""
        if not self._model.is_loaded:
            return self.facts.logit_scale
        return float(self.network.logit_scale.detach().exp())

    @property
    def network(self) -> ClipNetwork:
        """The open_clip model, in ``eval()``; loaded at first use, in fp32 on the CPU.

        Raises
        ------
        ModelError
            If the weights are gone, or changed since the model was named.
        """
        return self._model.get().network

    @property
    def preprocess(self) -> Callable[[Image], torch.Tensor]:
        """PIL image in RGB → float32 tensor (3, height, width), open_clip's own validation transform."""
        return self._model.get().preprocess

    @property
    def tokenize(self) -> Callable[..., torch.Tensor]:
        """List of n texts → int64 tensor (n, context_length); longer texts are cut."""
        return self._model.get().tokenize

    @cached_property
    def placement(self) -> Placement:
        """The device; asked for at first use."""
        return self._placement or resolve_device()

    @cached_property
    def _prepare(self) -> Callable[[Image], Array]:
        return split_preprocess(self.preprocess)[0]

    @cached_property
    def _tower(self) -> ImageTower:
        loaded, device = self._model.get(), self.placement.device
        return ImageTower(loaded, device, self.precision, flip=self._flip, unit=self._unit)

    def prepare(self, image: Image) -> Array:
        """Return an RGB image resized and cropped, uint8 of shape (h, w, 3) as a rule."""
        return self._prepare(image)

    def encode_images(self, prepared: Sequence[Array]) -> FloatArray:
        """Return unit embeddings, float32 of shape (n, d), of n prepared images."""
        return self._tower.encode(prepared)

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many of n texts are longer than the context, whose rest is not read.

        A token is a byte or more, so that short texts are counted without a tokenizer.
        """
        long = [text for text in texts if len(text.encode("utf-8", "replace")) + 2 > self.context_length]
        if not long:
            return 0
        # In twice the context a text that fits is followed by padding alone.
        tokens = self.tokenize(["", *long], context_length=2 * self.context_length)  # (1 + long, 2 · context)
        return int((tokens[1:, self.context_length :] != tokens[0, -1]).any(dim=1).sum())

    def encode_texts(self, texts: Sequence[str], progress: Progress | None = None) -> FloatArray:
        """Return unit embeddings, float32 of shape (n, d), of n texts, always in fp32; longer texts are cut."""
        import torch

        from flip.clip.text_tower import encode_text, pooled_positions

        network, device = self.network.to(self.placement.device), self.placement.device
        rows = np.zeros((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), TEXTS_SORTED):
            tokens = self.tokenize(list(texts[start : start + TEXTS_SORTED]))  # (m, context_length)
            lengths = pooled_positions(network, tokens)
            order = torch.arange(len(tokens)) if lengths is None else lengths.argsort(stable=True)
            for batch in torch.split(order, TEXT_BATCH):
                with torch.inference_mode():
                    features = encode_text(network, tokens[batch].to(device), normalize=self._unit)
                rows[start + batch.numpy()] = features.float().cpu().numpy()
                if progress:
                    progress(len(batch))
        return rows
