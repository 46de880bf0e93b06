"""``flip augment --study``: whether generated pictures help."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.cli.context import (
    data_name,
    implied_model,
    note,
    open_data,
    open_extractor,
    progress,
    read_features,
    result_format,
)
from flip.cli.drawing import draw_settings, note_cut_prompts, open_checkpoint, open_painter
from flip.cli.output import write_rows, write_summary
from flip.config import AugmentConfig, ReadConfig, parse_shots, parse_weights
from flip.errors import DataError
from flip.files import plain, write_json

if TYPE_CHECKING:
    from flip.data.dataset import Dataset
    from flip.diffusion.checkpoint import Loaded
    from flip.diffusion.generate import Planned
    from flip.embed.extractor import FeatureExtractor
    from flip.features import Features
    from flip.metrics import Array

#: The result, and the sign that a folder holds a study.
RESULT_FILE = "study.json"


def study(config: AugmentConfig) -> None:
    """Make the extras of every training photo, fit heads with and without them, and report what they gain."""
    from flip.files import claim_folder

    start = time.perf_counter()
    dataset = open_data(config)
    if dataset.embeddings is not None:
        raise DataError(f"{data_name(config)} is a table of embeddings; pass --data with the photos")
    dataset.require_training_photos()
    if "test" not in dataset.splits:
        raise DataError(f"{data_name(config)} has no test photos to score; a study needs a train and a test split")
    folder = config.output or Path("study")
    claim_folder(folder, RESULT_FILE, overwrite=config.overwrite)
    loaded = open_checkpoint(config)
    reading = _reading(config)
    extractor = open_extractor(reading)
    used = dataset.take(i for i, r in enumerate(dataset.records) if r.split in ("train", "test"))
    train, photos, test = _readable(used, read_features(reading, used, extractor))
    if extractor.placement.is_main and not (folder / RESULT_FILE).is_file():
        write_json(folder / RESULT_FILE, {"command": "augment --study"})
    extras = _make_extras(config, loaded, train, folder, extractor)
    if not extractor.placement.is_main:
        return
    about = {
        "command": "augment --study",
        "data": data_name(config),
        "model": extractor.model.name,
        "ckpt": loaded.name,
        "n": len(test),
        "classes": len(dataset.classnames),
        "protocol": _protocol(config, loaded),
    }
    rows = _compare(config, photos, test, extras)
    _report(config, {**about, "seconds": time.perf_counter() - start, "study": rows}, folder)


def _reading(config: AugmentConfig) -> ReadConfig:
    """Return how photos and pictures are embedded; --precision and --batch-size are those of drawing."""
    return ReadConfig(
        model=config.model or implied_model(config),
        device=config.device,
        cache=config.cache,
        workers=config.workers,
        quiet=config.quiet,
        verbose=config.verbose,
    )


def _readable(dataset: Dataset, features: Features) -> tuple[Dataset, Features, Features]:
    """Return the training photos that can be read, their features, and those of the test photos."""

    rows = [i for i, r in enumerate(dataset.records) if r.split == "train" and features.errors[i] is None]
    train = features.split("train").require_readable("train")
    return dataset.take(rows), train, features.split("test").require_readable("test")


def _make_extras(
    config: AugmentConfig, loaded: Loaded, train: Dataset, folder: Path, extractor: FeatureExtractor
) -> dict[str, Array]:
    """Return the features (photos, per photo, d) of every arm's pictures, making those that are missing."""
    from flip.diffusion.augment import decides
    from flip.diffusion.texts import photo_prompts
    from flip.studies import extras
    from flip.studies.augmentation import CONTROL, IMAGE, TEXT

    prompts = photo_prompts(train, config.prompts)
    made = {}
    for arm, strength in ((CONTROL, None), (TEXT, None), (IMAGE, config.from_photos)):
        own, settings = folder / arm, draw_settings(config, strength)
        how = (
            extras.views_decide(train, config.seed)
            if arm == CONTROL
            else decides(
                train, settings, fingerprint=loaded.fingerprint, seed=config.seed, prompts=prompts, filter="none"
            )
        )
        if extractor.placement.is_main:
            extras.begin_arm(own, how, overwrite=config.overwrite)
        extractor.placement.wait_for_everyone()
        planned = extras.plan_extras(train, prompts, arm, config.per_photo, own, seed=config.seed)
        mine = [planned[i] for i in extractor.placement.share(len(planned))]
        _make(config, arm, loaded, mine, strength, extractor)
        extractor.placement.wait_for_everyone()
        pictures = extras.list_extras(train, planned, own)
        with progress(config, f"{arm}, embedded", len(pictures)) as advance:
            made[arm] = extras.embed_extras(extractor, pictures, config.per_photo, advance)
    return made


def _make(
    config: AugmentConfig,
    arm: str,
    loaded: Loaded,
    planned: Sequence[Planned],
    strength: float | None,
    extractor: FeatureExtractor,
) -> None:
    """Make the pictures of an arm that are missing."""
    from flip.diffusion.generate import generate
    from flip.studies.augmentation import CONTROL
    from flip.studies.extras import write_views

    missing = sum(not p.file.is_file() for p in planned)
    note(config, f"{arm}: {len(planned) - missing} of {len(planned)} pictures are there, {missing} to make")
    if not missing:
        return
    with progress(config, arm, len(planned)) as advance:

        def done(p: Planned, now: bool) -> None:
            if advance:
                advance(1)

        if arm == CONTROL:
            write_views(planned, done)
            return
        painter = open_painter(config, loaded, draw_settings(config, strength), extractor.placement)
        note_cut_prompts(config, painter, [p.picture.prompt for p in planned])
        about = {"arm": arm, "ckpt": loaded.name, "fingerprint": loaded.fingerprint}
        generate(painter, planned, about, done)


def _compare(config: AugmentConfig, photos: Features, test: Features, extras: dict[str, Array]) -> list[dict[str, Any]]:
    from flip.classify.heads import make_head
    from flip.studies.augmentation import TrainingPool, compare, plan
    from flip.studies.few_shot import short_classes

    shots, weights = parse_shots(config.shots), parse_weights(config.weights)
    for k in shots:
        short = short_classes(photos.labels, k) if k else 0
        if short:
            note(config, f"{k} shots: {short} classes have fewer training photos and give all they have")
    pool = TrainingPool(photos.image_features, photos.labels, extras)
    fits = sum(1 for _ in plan(photos.labels, shots, config.seeds, tuple(extras), weights))
    note(config, f"fitting {fits} heads")
    with progress(config, "heads", fits) as advance:
        return compare(
            pool,
            test.image_features,
            test.labels,
            lambda seed: make_head(config.head, len(photos.classnames), seed),
            shots=shots,
            seeds=config.seeds,
            weights=weights,
            progress=advance,
        )


def _protocol(config: AugmentConfig, loaded: Loaded) -> dict[str, Any]:
    from flip.studies.augmentation import PROTOCOL
    from flip.studies.extras import VIEWS_ARE

    own = {"head": config.head, "text": "none", "per_photo": config.per_photo, "filter": "none", "views": VIEWS_ARE}
    drawn = {"fingerprint": loaded.fingerprint, "prompts": config.prompts, "seed": config.seed}
    return {**own, **PROTOCOL, **drawn, **asdict(draw_settings(config, config.from_photos))}


def _report(config: AugmentConfig, result: dict[str, Any], folder: Path) -> None:
    """Write study.json and the curves into the folder, and the result to stdout in the format asked for."""
    from flip.report.plots import plot_augmentation

    write_json(folder / RESULT_FILE, result)
    plot = config.plot or folder / "study.svg"
    plot_augmentation(plot, result["study"], f"{result['data']}, {result['classes']} classes, n {result['n']}")
    note(config, f"{folder / RESULT_FILE} holds the result, {plot} the curves")
    # Here -o is the folder of the study, and tells nothing of how the result is printed.
    shown = replace(config, output=None)
    if result_format(shown, "json") == "json":
        write_summary(replace(shown, format="json"), "", plain(result))
    else:
        write_rows(shown, "flip augment --study", result["study"])
