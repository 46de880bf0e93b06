"""Metadata of a generated image, as its PNG carries it: prompt, seed, model, settings, and how it was judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from flip.reading import parse_json

Value = str | int | float | None

#: Keys of the settings an image was drawn with.
_SETTINGS = ("sampler", "steps", "guidance", "width", "height", "negative", "strength")

#: JSON key and attribute of what only an image of a generated training set has.
_LABELLED = {
    "label": "label",
    "classname": "classname",
    "source": "source",
    "attempt": "attempt",
    "clip_label": "clip_label",
    "clip_similarity": "similarity",
    "clip_threshold": "threshold",
    "near_test": "near_test",
}
_OTHERS = {"arm": "arm", "ckpt": "ckpt", "fingerprint": "fingerprint", "filter": "filter"}


@dataclass(frozen=True, kw_only=True)
class ImageMetadata:
    """Metadata of a generated image.

    Attributes
    ----------
    prompt : str
    seed : int or None
        Of this image alone.
    settings : mapping
        The settings it was drawn with, as :meth:`flip.diffusion.settings.SamplerSettings.to_dict` names them, with the
        size in pixels that they came to.
    ckpt, fingerprint : str or None
        The diffusion model.
    index : int or None
        Number among the images of one prompt.
    label, classname : str or None
        Raw and clean name of its class.
    source : str or None
        The training photo it was begun from.
    attempt : int or None
        Number of the attempt for its place in the training set.
    filter : str or None
        The filter that it passed, ``none`` without one.
    clip_label : str or None
        The class that CLIP sees.
    similarity, threshold : float or None
        Cosine to the text of its class, and the least that was asked for.
    near_test : str or None
        The test photo that it is a near copy of.
    arm : str or None
        The arm of a study that it belongs to.
    """

    prompt: str = ""
    seed: int | None = None
    settings: Mapping[str, Value] = field(default_factory=dict)
    ckpt: str | None = None
    fingerprint: str | None = None
    index: int | None = None
    label: str | None = None
    classname: str | None = None
    source: str | None = None
    attempt: int | None = None
    filter: str | None = None
    clip_label: str | None = None
    similarity: float | None = None
    threshold: float | None = None
    near_test: str | None = None
    arm: str | None = None

    def to_dict(self) -> dict[str, Value]:
        """Return the JSON that the PNG holds beside the prompt."""
        values: dict[str, Value] = {}
        for key, name in _OTHERS.items():
            if getattr(self, name) is not None:
                values[key] = getattr(self, name)
        values.update(self.settings)
        if self.seed is not None:
            values["seed"] = self.seed
        if self.label is not None:
            values |= {key: getattr(self, name) for key, name in _LABELLED.items()}
        if self.index is not None:
            values["index"] = self.index
        return values

    def to_row(self) -> dict[str, Value]:
        """Return the columns of ``metadata.jsonl`` of a generated training set, beside the file's name."""
        keys = ("label", "source", "seed", "attempt", "clip_label", "clip_similarity", "clip_threshold", "near_test")
        own = {key: self.seed if key == "seed" else getattr(self, _LABELLED[key]) for key in keys}
        return {"text": self.prompt, **own}

    @classmethod
    def from_json(cls, prompt: str, text: str) -> Self:
        """Read what :meth:`to_dict` gave; what is no JSON object counts as empty, a value of another type as absent."""
        try:
            values = parse_json(text)
        except ValueError:
            return cls()
        if not isinstance(values, dict):
            return cls()
        names = {**_OTHERS, **_LABELLED, "seed": "seed", "index": "index"}
        found = {name: values[key] for key, name in names.items() if _fits(name, values.get(key))}
        settings = {key: values[key] for key in _SETTINGS if key in values and isinstance(values[key], Value)}
        return cls(prompt=prompt, settings=settings, **found)


def _fits(name: str, value: object) -> bool:
    if name in ("seed", "index", "attempt"):
        return isinstance(value, int) and not isinstance(value, bool)
    if name in ("similarity", "threshold"):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, str)
