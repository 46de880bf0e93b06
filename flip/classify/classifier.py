"""Heads as classifiers over features: with their text side, class names and the model whose features they take."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flip.arrays import Array, FloatArray, UIntArray
from flip.classify.base import Classifier, HeldOutPredictions
from flip.classify.calibration import softmax
from flip.classify.heads import Head, Inputs, SavedHead, build_head, head_from_arrays
from flip.classify.settings import HeadSettings
from flip.classify.text_side import ZeroShotText, build_text_side
from flip.classify.training_set import TrainingSet
from flip.classify.zeroshot import ZeroShotClassifier
from flip.errors import CheckpointError, ConfigError, DataError, FeatureMismatchError, reason_of
from flip.features import Features
from flip.files import JsonObject, claim_folder, plain, write_json, written_aside
from flip.machine import versions
from flip.reading import read_bytes, read_json
from flip.results import FORMAT, require_format

log = logging.getLogger(__name__)

HEAD_FILE, ARRAYS_FILE = "head.json", "head.safetensors"
CLASS_EMBEDDINGS = "class_embeddings"
LEARNED_FROM = "learned_from"
_SEAL = "sha256"


@dataclass(frozen=True)
class Origin:
    """The features a head takes: the model that made them, and how it saw the photos.

    Attributes
    ----------
    model, fingerprint : str
        Name and fingerprint of the model.
    crop, tta : str
        As ``--crop`` and ``--tta``.
    precision : str
        Number format of the image network; empty where it is unknown.
    """

    model: str = ""
    fingerprint: str = ""
    crop: str = "none"
    tta: str = "none"
    precision: str = ""

    def require(self, other: Origin) -> None:
        """Raise a FeatureMismatchError unless the other features were made the same way; log another precision."""
        if self.fingerprint != other.fingerprint:
            raise FeatureMismatchError(
                f"the head was fitted on features of {self.model} ({self.fingerprint}), "
                f"not of {other.model} ({other.fingerprint}); pass --model {self.model}, or fit a head on the other"
            )
        for name in ("crop", "tta"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise FeatureMismatchError(f"the head was fitted with --{name} {mine}; pass that, not {theirs}")
        if self.precision and other.precision and self.precision != other.precision:
            log.warning(
                "the head was fitted on features in %s, and gets features in %s, which may move single photos; "
                "pass --precision %s for the same",
                *(self.precision, other.precision, self.precision),
            )


class HeadClassifier(Classifier):
    """A head and its text side; ``make_head`` makes one, ``load_classifier`` reads a fitted one.

    Parameters
    ----------
    settings : HeadSettings
        Head and text side.
    zero_shot : ZeroShotText, optional
        Class embeddings; needed with ``text="prompts"``, ignored with ``text="none"``.
    seed : int
        Decides folds and initial weights.
    origin : Origin, optional
        How the features are made; only what is saved needs it. Its fingerprint is set by ``fit``.
    **options
        Further arguments of the head's class, such as ``alpha``.

    Attributes
    ----------
    name : str
        The head that was asked for.
    text : {"none", "prompts", "captions"}
    origin : Origin

    Raises
    ------
    ConfigError
        If the text side is ``prompts`` and there are no class embeddings.
    """

    def __init__(
        self,
        settings: HeadSettings,
        zero_shot: ZeroShotText | None = None,
        *,
        seed: int = 0,
        origin: Origin | None = None,
        **options: Any,
    ) -> None:
        if settings.text == "prompts" and zero_shot is None:
            raise ConfigError(
                "text='prompts' needs the class embeddings of the prompts; "
                "pass zero_shot=build_zero_shot_classifier(…), or text='none'"
            )
        self.settings, self.seed, self.options = settings, seed, options
        self.zero_shot = None if settings.text == "none" else zero_shot
        self.origin = origin or Origin()
        self.name, self.text = settings.head, settings.text
        self._head: Head | None = None
        self._saved_protocol: JsonObject | None = None
        self._learned_from = np.empty(0, np.uint64)

    @property
    def head(self) -> Head:
        """The fitted head over arrays.

        Raises
        ------
        ConfigError
            If it is not fitted.
        """
        self._require_fitted()
        assert self._head is not None
        return self._head

    @property
    def head_name(self) -> str:
        """The head that predicts; for ``auto`` the one it chose."""
        return self._head.chosen_name if self._head is not None else self.name

    def unfitted(self, seed: int | None = None) -> HeadClassifier:
        """Return an unfitted classifier with the same settings and, where one is given, another seed."""
        seed = self.seed if seed is None else seed
        return HeadClassifier(self.settings, self.zero_shot, seed=seed, origin=self.origin, **self.options)

    def inputs(self, features: Features) -> Inputs:
        """Return what the head sees of n photos.

        Raises
        ------
        ConfigError
            If the head needs captions and the features hold none.
        """
        if self.text == "captions" and features.caption_features is None:
            raise ConfigError(
                "this head was fitted with --text captions and needs each photo's caption; "
                "name photos with a head that was fitted with --text prompts"
            )
        captions = features.caption_features if self.text == "captions" else None
        if self.zero_shot is None:
            return build_text_side(features.image_features, caption_features=captions)
        embeddings, scale = self.zero_shot.class_embeddings, self.zero_shot.logit_scale
        return build_text_side(features.image_features, embeddings, scale, captions)

    def count_learned(self, features: Features) -> int:
        """Return how many of n readable photos the head learned from, as their features tell."""
        keys = photo_keys(features.readable().image_features)
        return int(np.isin(keys, self._learned_from).sum())

    def held_out(self) -> HeldOutPredictions | None:
        """Return the calibrated out-of-fold probabilities of training rows; None where nothing could be held out."""
        held = self.head.out_of_fold
        return None if held is None else HeldOutPredictions("out-of-fold", held.rows, softmax(held.logits))

    def save(
        self, folder: str | Path, *, protocol: Mapping[str, object] | None = None, overwrite: bool = False
    ) -> None:
        """Write ``head.json`` and ``head.safetensors``, each atomically.

        Parameters
        ----------
        folder : str or Path
        protocol : mapping, optional
            More entries for the protocol that is saved.
        overwrite : bool
            Write also into a folder that holds something.

        Raises
        ------
        ConfigError
            If it is not fitted, or the folder holds something and ``overwrite`` is false, or cannot be written.
        """
        from safetensors.numpy import save

        folder, saved = Path(folder), self.head.to_arrays()
        arrays = dict(saved.arrays)
        if self.zero_shot is not None:
            arrays[CLASS_EMBEDDINGS] = np.ascontiguousarray(self.zero_shot.class_embeddings)
        about = {
            "command": "hybrid",
            "format": FORMAT,
            "classnames": self.classes_,
            "origin": asdict(self.origin),
            "text": self.text,
            "logit_scale": 1.0 if self.zero_shot is None else self.zero_shot.logit_scale,
            "head": saved.values,
            "protocol": {**self.protocol, **(protocol or {})},
            "versions": versions(),
        }
        arrays[LEARNED_FROM] = self._learned_from
        claim_folder(folder, overwrite=overwrite, flag="--save")
        with written_aside(folder / ARRAYS_FILE, "pass --save with a folder that can", kind="weights") as aside:
            packed = save(arrays)
            aside.write_bytes(packed)
        write_json(folder / HEAD_FILE, {**about, _SEAL: _sealed(about, packed)})

    def _fit(self, train: TrainingSet) -> None:
        features = train.features
        if self.text == "captions" and features.caption_features is None:
            raise DataError(
                "text='captions' needs each photo's caption, and these features hold none; "
                "embed the captions too, or pass text='prompts'"
            )
        if self.zero_shot is not None:
            self.zero_shot.require_model(features.fingerprint)
        head = build_head(self.name, len(features.classnames), self.seed, **self.options)
        self._learned_from = np.unique(photo_keys(features.image_features[train.real]))
        self._head = head.fit(self.inputs(features), train.labels, train.weight, train.real, train.group)
        self.origin = replace(self.origin, fingerprint=features.fingerprint)

    def _probabilities(self, features: Features) -> FloatArray:
        return self.head.predict_proba(self.inputs(features))

    def _describe(self) -> dict[str, object]:
        if self._saved_protocol is not None:
            return dict(self._saved_protocol)
        protocol: dict[str, object] = {"head": self.name, "text": self.text}
        if self.zero_shot is not None:
            protocol["prompts"] = self.zero_shot.prompts
        if self.text == "captions":
            protocol["test_captions"] = True
        return {**protocol, "chosen": dict(self.head.protocol)}

    @classmethod
    def _restore(cls, about: JsonObject, arrays: dict[str, Array]) -> HeadClassifier:
        """Return the classifier that ``save`` described; KeyError or TypeError where something is absent."""
        origin, protocol = Origin(**about["origin"]), dict(about.get("protocol", {}))
        embeddings = arrays.pop(CLASS_EMBEDDINGS, None)
        learned_from = arrays.pop(LEARNED_FROM, np.empty(0, np.uint64))
        text = None
        if embeddings is not None:
            prompts = str(protocol.get("prompts", ""))
            text = ZeroShotText(embeddings, float(about["logit_scale"]), prompts, origin.fingerprint)
        head = head_from_arrays(SavedHead(arrays, about["head"]))
        settings = HeadSettings(head=head.name, text=about["text"])
        classifier = cls(settings, text, seed=head.seed, origin=origin)
        classifier._head, classifier._saved_protocol = head, protocol
        classifier._learned_from = learned_from
        classifier.classes_, classifier.fingerprint = tuple(about["classnames"]), origin.fingerprint
        return classifier


def photo_keys(image_features: FloatArray) -> UIntArray:
    """Return a hash of each row in half precision, uint64 of shape (n,): the same photo has the same."""
    rows = np.ascontiguousarray(image_features, np.float16)
    digests = (hashlib.sha256(row.tobytes()).digest()[:8] for row in rows)
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def _sealed(about: Mapping[str, object], packed: bytes) -> str:
    """Return a hash of all that a saved head is: numbers that were changed would be wrong without a word."""
    text = json.dumps(plain(about), sort_keys=True)
    return hashlib.sha256(text.encode() + packed).hexdigest()


def make_head(
    name: str = "auto",
    *,
    text: str = "none",
    zero_shot: ZeroShotClassifier | None = None,
    seed: int = 0,
    origin: Origin | None = None,
    **options: Any,
) -> HeadClassifier:
    """Return an unfitted head: ``make_head("gda").fit(train).predict_proba(test)``.

    Parameters
    ----------
    name : str
        One of ``flip.names.HEADS``; ``auto`` chooses by cross-validation on the training photos.
    text : {"none", "prompts", "captions"}
        Text side: none, the class prompts of ``zero_shot``, or each photo's own captions (at test time
        too), which the features must hold.
    zero_shot : ZeroShotClassifier, optional
        Class embeddings of the same model; needed with ``prompts``, and a prior with ``captions``.
    seed : int
        Decides folds and initial weights.
    origin : Origin, optional
        How the features are made, for a head that is saved.
    **options
        Further arguments of the head's class: ``alpha``, ``device``, ``members``.

    Raises
    ------
    ConfigError
        If there is no such head or text side, or ``prompts`` come without class embeddings.
    """
    settings = HeadSettings(head=name, text=text)
    return HeadClassifier(settings, zero_shot.text if zero_shot else None, seed=seed, origin=origin, **options)


def load_classifier(folder: Path | str) -> HeadClassifier:
    """Read what ``HeadClassifier.save`` wrote; its predictions are identical.

    Raises
    ------
    CheckpointError
        If the folder holds no head, or a damaged one.
    DataError
        If a newer flip wrote it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = Path(folder)
    file = folder / HEAD_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no {HEAD_FILE}; pass a folder that flip hybrid --save wrote")
    try:
        about = read_json(file)
        require_format(about, f"the head in {folder}")
        packed = read_bytes(folder / ARRAYS_FILE)
        seal = about.pop(_SEAL, None)
        if seal is not None and seal != _sealed(about, packed):
            raise ValueError("it was changed since it was saved")
        return HeadClassifier._restore(about, load(packed))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ConfigError, SafetensorError) as e:
        raise CheckpointError(f"the head in {folder} cannot be read ({reason_of(e)}); save it again with --save") from e
