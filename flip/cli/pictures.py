"""``--plot``: which picture of a result is drawn, and where."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flip.errors import ConfigError
from flip.names import PLOTS

if TYPE_CHECKING:
    from flip.studies.protocol import Outcome

log = logging.getLogger("flip.cli")

SUFFIXES = (".png", ".svg", ".pdf")


class Picture(NamedTuple):
    """A kind of ``flip.names.PLOTS``, None for what suits the result, and its file."""

    kind: str | None
    file: Path


def parse_plot(text: str | None) -> Picture | None:
    """Parse ``--plot``: FILE, KIND (drawn into KIND.png in the current folder), or KIND:FILE.

    Raises
    ------
    ConfigError
        If the file's suffix is none that can be drawn.
    """
    if text is None:
        return None
    kind, colon, name = text.partition(":")
    if colon and kind not in PLOTS and re.fullmatch("[a-z-]{2,}", kind):
        raise ConfigError(f"--plot {text}: {kind!r} is none of {', '.join(PLOTS)}; pass one of them before the colon")
    if kind not in PLOTS:
        kind, name = "", text
    elif not colon:
        name = f"{kind}.png"
    file = Path(name)
    if file.suffix not in SUFFIXES:
        raise ConfigError(
            f"--plot {text} is no picture file; pass a name that ends in {', '.join(SUFFIXES[:2])} or {SUFFIXES[2]}, "
            f"alone or behind one of {', '.join(PLOTS)}, such as calibration:curve.svg"
        )
    return Picture(kind or None, file)


def draw(plot: str | None, outcome: Outcome) -> None:
    """Draw what ``--plot`` asks for; by default the few-shot curve of ``--shots``, else the confusion matrix."""
    picture = parse_plot(plot)
    if picture is None:
        return
    from flip.report import plots

    evaluation, file = outcome.evaluation, picture.file
    kind = picture.kind or ("few-shot" if "shots" in evaluation.details else "confusion")
    title = f"{evaluation.command}, top-1 {evaluation.top1:.1f} %, n {evaluation.n:,}"
    if kind == "confusion":
        plots.plot_confusion(file, outcome.confusions(), outcome.features.classnames, title)
    elif kind == "few-shot":
        plots.plot_few_shot(file, {evaluation.command: evaluation.details["shots"]}, title)
    else:
        draw_one = plots.plot_calibration if kind == "calibration" else plots.plot_coverage
        draw_one(file, evaluation.details, title)
    log.info("drew %s", file)
