"""``flip augment --study``: whether generated images help."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.cli.context import Context, progress
from flip.cli.drawing import draw_settings, open_checkpoint
from flip.cli.output import result_format, write_rows, write_summary
from flip.settings import settings_from
from flip.studies.settings import StudySettings

if TYPE_CHECKING:
    from flip.cli.commands.augment import AugmentOptions


log = logging.getLogger("flip.cli")


def study(options: AugmentOptions) -> None:
    """Make extra images of every training photo, fit heads with and without them, and report what they gain."""
    from flip.cli.commands.augment import open_extractor
    from flip.device import resolve_precision
    from flip.studies.study import RESULT_FILE, Study

    folder = options.output or Path("study")
    context = Context(options)
    dataset = context.dataset
    dataset.require_photos()
    loaded = open_checkpoint(options)
    extractor = open_extractor(options)
    result = Study(
        dataset=dataset,
        data=context.data_name,
        extractor=extractor,
        loaded=loaded,
        folder=folder,
        settings=settings_from(options, StudySettings),
        drawing=draw_settings(options, options.from_photos),
        prompts=options.prompts,
        seed=options.seed,
        precision=resolve_precision(options.precision, extractor.placement, "draw"),
        batch_size=options.batch_size,
        overwrite=options.overwrite,
        bars=lambda title, total: progress(options, title, total),
    ).run()
    if result is None:
        return
    _draw_curves(options.plot or folder / "study.svg", result)
    log.info("%s holds the result", folder / RESULT_FILE)
    if result_format(options, "json") in ("json", "jsonl") and options.format != "jsonl":
        write_summary(options, "", result)
    else:
        write_rows(options, "flip augment --study", result["study"])


def _draw_curves(file: Path, result: Mapping[str, Any]) -> None:
    from flip.report.plots import plot_augmentation

    plot_augmentation(file, result["study"], f"{result['data']}, {result['classes']} classes, n {result['n']}")
    log.info("drew %s", file)
