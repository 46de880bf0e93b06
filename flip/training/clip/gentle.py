"""Settings that nobody chose: a model that names the classes well already is trained gently, any other freely."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from flip.clip.encoder import OpenClipEncoder
from flip.clip.prompts import data_prompts
from flip.data.dataset import Dataset, few_shot_indices
from flip.device import resolve_device
from flip.embed.keys import Source
from flip.training.clip.trainable import GENTLE_CONVOLUTIONAL_LR, LORA_FACTOR, is_convolutional
from flip.training.clip.validation import embed_photos, zero_shot
from flip.training.settings import ClipSettings, Hardware

log = logging.getLogger(__name__)

#: Share of training photos that a model names rightly from which on it is trained gently. Measured in docs/results.md:
#: below it a free training gains much and forgets nothing measurable, above it it gains little and forgets much.
KNOWN = 0.75
#: Photos that are looked at, at most.
PHOTOS = 256


def settled(
    model: OpenClipEncoder, photos: Dataset, settings: ClipSettings, hardware: Hardware, *, crop: bool
) -> ClipSettings:
    """Return settings whose rate, ``keep`` and ``wise`` are decided.

    Only where all three are left open are they chosen by what the model knows of the training photos; few-shot
    trainings and random weights are not gentle.

    Parameters
    ----------
    model : OpenClipEncoder
    photos : Dataset
        To learn from.
    settings : ClipSettings
    hardware : Hardware
    crop : bool
        Cut photos to their boxes.
    """
    free = replace(settings, keep=settings.keep or 0.0)
    chosen = (settings.lr, settings.keep, settings.wise, settings.shots, settings.from_scratch)
    if any(value is not None for value in chosen):
        return free
    known, count = share_named(model, photos, settings, hardware, crop=crop)
    if known < KNOWN:
        return free
    factor = LORA_FACTOR if settings.rank is not None else 1.0
    lr = factor * GENTLE_CONVOLUTIONAL_LR if is_convolutional(model.network.visual) else None
    log.info(
        f"zero-shot names {known:.0%} of {count} training photos already: training is gentle "
        f"({f'--lr {lr:g} ' if lr else ''}--keep 1 --wise 0.5), so that little is forgotten; pass --lr to train freely"
    )
    return replace(settings, lr=lr, keep=1.0, wise="0.5")


def share_named(
    model: OpenClipEncoder, photos: Dataset, settings: ClipSettings, hardware: Hardware, *, crop: bool
) -> tuple[float, int]:
    """Return the share of training photos that zero-shot names rightly, and the number of photos looked at.

    They are a draw of about as many of each class.
    """
    each = max(1, PHOTOS // len(photos.classnames))
    rows = few_shot_indices(photos.labels, each, settings.seed)
    # Of more classes than photos some are not looked at.
    drawn = photos.take(np.sort(np.random.default_rng(settings.seed).permutation(rows)[:PHOTOS]))
    sources = [Source(str(drawn.file(r)), r.region(crop)) for r in drawn.records]
    placement = resolve_device(hardware.device)
    features, readable = embed_photos(model, sources, placement, settings.batch_size, hardware.workers)
    prompts = data_prompts(settings.prompts, drawn)
    right = zero_shot(model, features, drawn.labels[readable], prompts, placement).correct
    return float(right.mean()) if len(right) else 0.0, len(right)
