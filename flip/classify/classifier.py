"""A fitted head with all that belongs to it: class names, text side, and which model's features it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flip.classify.heads import Head, Inputs, head_from_arrays
from flip.classify.text_side import build_text_side
from flip.errors import CheckpointError, ConfigError, FeatureMismatchError
from flip.files import claim_folder, write_json
from flip.results import versions

FloatMatrix = npt.NDArray[np.float32]

HEAD_FILE, ARRAYS_FILE = "head.json", "head.safetensors"
CLASS_EMBEDDINGS = "class_embeddings"


@dataclass(frozen=True)
class Origin:
    """The features a head takes: which model made them, and how it saw the photos."""

    model: str
    fingerprint: str
    crop: str
    tta: str

    def require(self, other: Origin) -> None:
        """Raise a FeatureMismatchError unless the other features were made the same way."""
        if self.fingerprint != other.fingerprint:
            raise FeatureMismatchError(
                f"the head was fitted on features of {self.model} ({self.fingerprint}), "
                f"not of {other.model} ({other.fingerprint}); pass --model {self.model}, or fit a head on the other"
            )
        for name in ("crop", "tta"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise FeatureMismatchError(f"the head was fitted with --{name} {mine}; pass that, not {theirs}")


@dataclass(frozen=True)
class HybridClassifier:
    """A fitted head and its text side.

    Attributes
    ----------
    head : Head
    text : {"none", "prompts", "captions"}
    class_embeddings : float32 array of shape (c, d) or None
        Unit rows; None with ``--text none``.
    logit_scale : float
    classnames : tuple of c str
    origin : Origin
    """

    head: Head
    text: str
    class_embeddings: FloatMatrix | None
    logit_scale: float
    classnames: tuple[str, ...]
    origin: Origin

    def inputs(self, image_features: FloatMatrix, caption_features: FloatMatrix | None = None) -> Inputs:
        """Return what the head sees of photos: image features (n, d) and, with ``captions``, caption features (n, d).

        Raises
        ------
        ConfigError
            If the head needs captions and there are none.
        """
        if self.text == "captions" and caption_features is None:
            raise ConfigError(
                "this head was fitted with --text captions and needs each photo's caption; "
                "name photos with a head that was fitted with --text prompts"
            )
        captions = caption_features if self.text == "captions" else None
        return build_text_side(image_features, self.class_embeddings, self.logit_scale, captions)

    def predict_proba(self, image_features: FloatMatrix, caption_features: FloatMatrix | None = None) -> FloatMatrix:
        """Return calibrated class probabilities of shape (n, c)."""
        return self.head.predict_proba(self.inputs(image_features, caption_features))

    def save(self, folder: Path, protocol: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Write ``head.json`` and ``head.safetensors``, each aside and renamed.

        Raises
        ------
        ConfigError
            If the folder holds something and ``overwrite`` is false, or cannot be written.
        """
        from safetensors.numpy import save

        claim_folder(folder, overwrite=overwrite)
        arrays, values = self.head.to_arrays()
        if self.class_embeddings is not None:
            arrays[CLASS_EMBEDDINGS] = np.ascontiguousarray(self.class_embeddings)
        about = {
            "format": 1,
            "classnames": self.classnames,
            "origin": asdict(self.origin),
            "text": self.text,
            "logit_scale": self.logit_scale,
            "head": values,
            "protocol": dict(protocol),
            "versions": versions(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            aside = folder / f".{ARRAYS_FILE}.tmp"
            aside.write_bytes(save(arrays))
            aside.replace(folder / ARRAYS_FILE)
        except OSError as e:
            raise ConfigError(f"{folder} cannot be written ({e.strerror}); pass --save with a folder that can") from e
        write_json(folder / HEAD_FILE, about)


def load_hybrid(folder: Path) -> HybridClassifier:
    """Read what ``HybridClassifier.save`` wrote; its predictions are identical.

    Raises
    ------
    CheckpointError
        If the folder holds no head, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = folder / HEAD_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no {HEAD_FILE}; pass a folder that flip hybrid --save wrote")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        arrays = load_file(folder / ARRAYS_FILE)
        class_embeddings = arrays.pop(CLASS_EMBEDDINGS, None)
        head = head_from_arrays(arrays, about["head"])
        names, origin = tuple(about["classnames"]), Origin(**about["origin"])
        return HybridClassifier(head, about["text"], class_embeddings, float(about["logit_scale"]), names, origin)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
        raise CheckpointError(f"the head in {folder} cannot be read ({e}); save it again with --save") from e
