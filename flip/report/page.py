"""``write_report``: runs as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from flip.errors import ConfigError
from flip.features import Features
from flip.files import write_text
from flip.report import views
from flip.report.album import Content, make_content
from flip.report.charts import make_charts
from flip.report.compare import compare_scored
from flip.report.payload import make_payload, safe_json
from flip.report.rows import read_runs, require_same_photos
from flip.report.similarity import Doubt, doubtful_labels
from flip.report.source import features_of, photo_url, photos_of, root_of
from flip.report.thumbnails import thumbnails
from flip.results import Run
from flip.settings import Progress

if TYPE_CHECKING:
    from jinja2 import Environment

log = logging.getLogger(__name__)

#: Most thumbnails on a page.
PHOTOS = 1000

#: Most photos that are listed with a doubtful label.
MOST_DOUBTS = 24

TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("core.js", "table.js", "matrix.js", "map.js")


def write_report(
    runs: Sequence[Run],
    file: Path,
    *,
    photos: int = PHOTOS,
    features: Sequence[Features | None] | None = None,
    groups: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Write one HTML page about runs; it needs no network and opens from disk.

    Parameters
    ----------
    runs : sequence of Run
        One or more, of the same test photos; the others are compared with the first.
    file : Path
    photos : int
        Most thumbnails on the page, the most telling photos first; 0 for none.
    features : sequence of (Features or None), optional
        Embeddings of each run's training photos and of the photos it scored; taken from the cache without it.
    groups : Path, optional
        A table of class and group, as ``--groups`` takes; without it the last word of a class's name is its group,
        where most classes share theirs.
    progress : callable, optional
        Called with the number of thumbnails just made.

    Raises
    ------
    ConfigError
        If no run is given, or the file cannot be written.
    DataError
        If a run's rows or the groups cannot be read, or the runs scored different photos or labels.
    """
    if not runs:
        raise ConfigError("no run to report; pass folders that --run wrote")
    scored = read_runs(runs)
    require_same_photos(scored)
    found = [features_of(run) for run in runs] if features is None else list(features)
    content = make_content(scored, found, groups)
    write_text(file, render(content, file, photos, progress))


def render(content: Content, file: Path, photos: int = PHOTOS, progress: Progress | None = None) -> str:
    """Return the page's HTML; see :func:`write_report`."""
    count = range(len(content.runs))
    root = root_of(content.runs[0].run)
    mistakes = [views.mistakes_of(content, run) for run in count]
    pairs = [views.pairs_of(content, run) for run in count]
    doubts = doubtful_labels(content, MOST_DOUBTS)
    chosen = _telling(content, mistakes, pairs, doubts)
    thumbs = _thumbnails(content, chosen, root, photos, progress)
    script = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    payload = make_payload(content, thumbs, root, file)
    return (
        _environment()
        .get_template("page.html")
        .render(
            first=content.runs[0].run.evaluation,
            runs=views.run_views(content),
            all_pairs=compare_scored(content.runs, "all") if len(content.runs) > 2 else [],
            classes=views.class_rows(content),
            ranks=views.rank_rows(content),
            grouped=bool(content.groups),
            mistakes=mistakes,
            pairs=pairs,
            doubts=doubts,
            names=content.classes,
            album=content.album,
            charts=make_charts(content.runs),
            made=views.made_views(content),
            maps=payload["maps"],
            have_photos=root is not None,
            thumbs=len(thumbs),
            url=lambda number: _url(content, number, root, file),
            payload=safe_json(payload),
            style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["place"] = lambda value, low, high: round(100 * (value - low) / max(high - low, 1e-9), 2)
    environment.filters["p_value"] = lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}"
    environment.filters["basename"] = lambda path: path.rpartition("/")[2]
    environment.filters["signed"] = _signed
    return environment


def _signed(value: float) -> str:
    """Return a difference with its sign, a true minus; none for zero."""
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "−")


def _url(content: Content, number: int, root: Path | None, file: Path) -> str | None:
    path = content.album.paths[number]
    return photo_url(path, root, file) if root is not None or Path(path).is_absolute() else None


def _thumbnails(
    content: Content, numbers: Iterable[int], root: Path | None, most: int, progress: Progress | None
) -> dict[int, str]:
    """Return thumbnails of the first photos of an order that can be read."""
    first = list(islice(numbers, most))
    photos = photos_of(content.runs[0].run, [content.album.paths[n] for n in first], root)
    chosen = dict(zip(first, photos, strict=True))
    there = root is not None or any(photo.file.is_absolute() for photo in photos)
    made = thumbnails(chosen, progress) if there else {}
    if len(made) < len(chosen):
        log.warning(
            "%s of %s photos are not there or cannot be read; the page shows placeholders",
            len(chosen) - len(made),
            len(chosen),
        )
    return made


def _telling(
    content: Content,
    mistakes: Sequence[Sequence[views.Mistake]],
    pairs: Sequence[Sequence[views.Pair]],
    doubts: Sequence[Doubt],
) -> list[int]:
    """Return all photos by number, the most telling first, each once."""
    return list(dict.fromkeys(_by_interest(content, mistakes, pairs, doubts)))


def _by_interest(
    content: Content,
    mistakes: Sequence[Sequence[views.Mistake]],
    pairs: Sequence[Sequence[views.Pair]],
    doubts: Sequence[Doubt],
) -> Iterator[int]:
    for wrong in mistakes:
        for mistake in wrong:
            yield mistake.photo
            yield from (similar.photo for similar in mistake.similar)
    yield from (doubt.photo for doubt in doubts)
    for confused in pairs:
        for pair in confused:
            yield from (*pair.first_photos, *pair.second_photos, *pair.first_right, *pair.second_right)
    labels = content.album.labels
    yield from (labels.index(c) for c in range(len(content.classes)) if c in labels)
    for run in range(len(content.runs)):
        yield from content.wrong(run).nonzero()[0].tolist()
    # The rest, spread over the classes.
    yield from sorted(range(len(labels)), key=lambda i: (i * 7919) % max(len(labels), 1))
