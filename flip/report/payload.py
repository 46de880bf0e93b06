"""What a page's scripts read: one JSON object, safe inside HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from flip.arrays import FloatArray
from flip.report.album import Content
from flip.report.similarity import alike_order, class_means, project
from flip.report.source import photo_url
from flip.report.thumbnails import image_format

#: What would end the script element, start markup, or end a line in old readers, as JSON escapes.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}

#: Coordinates of the map are whole numbers from 0 to this.
MAP_SIZE = 4000


def safe_json(value: object) -> Markup:
    """Return JSON that may stand in a ``<script>`` element, whatever the strings in it hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode("utf-8"))


def make_payload(content: Content, thumbs: Mapping[int, str], root: Path | None, page: Path) -> dict[str, Any]:
    """Return the object that the scripts read.

    Parameters
    ----------
    content : Content
    thumbs : mapping of photo number → base64
    root : Path or None
        The folder of the photos, where it is still there.
    page : Path
    """
    album = content.album
    splits = list(dict.fromkeys(album.splits))
    groups = list(dict.fromkeys(content.groups))
    maps, map_of_run = _maps(content)
    base = None if root is None else photo_url("x", root, page).removesuffix("x")
    absolute = {i: photo_url(path, root, page) for i, path in enumerate(album.paths) if Path(path).is_absolute()}
    return {
        "classes": content.classes,
        "groups": groups,
        "groupOf": [groups.index(group) for group in content.groups],
        "orders": _orders(content),
        "paths": [_displayable(path) for path in album.paths],
        "labels": album.labels,
        "splits": splits,
        "splitOf": [splits.index(split) for split in album.splits],
        "scored": album.scored,
        "runs": [_run(content, run, map_of_run[run]) for run in range(len(content.runs))],
        "maps": maps,
        "thumbs": thumbs,
        "mime": f"image/{image_format()}",
        "base": base,
        "absolute": absolute,
    }


def _run(content: Content, run: int, map_number: int | None) -> dict[str, Any]:
    second = [photo.top[1] if len(photo.top) > 1 else None for photo in content.rows[run]]
    return {
        "name": content.runs[run].name,
        "guess": content.guesses[run].tolist(),
        "score": [round(float(score), 3) for score in content.scores[run]],
        "second": [-1 if guess is None else content.index[guess[0]] for guess in second],
        "secondScore": [0 if guess is None else round(guess[1], 3) for guess in second],
        "map": map_number,
    }


def _orders(content: Content) -> dict[str, list[int]]:
    confusions = sum((content.confusions(run) for run in range(len(content.runs))), start=np.int64(0))
    features = next((found for found in content.features if found is not None), None)
    means = None if features is None else class_means(features, content.classes)
    names = sorted(range(len(content.classes)), key=lambda c: (content.classes[c].casefold(), c))
    return {"alike": alike_order(np.asarray(confusions), means).tolist(), "name": names}


def _maps(content: Content) -> tuple[list[dict[str, Any]], list[int | None]]:
    """Return a map of each model's embeddings, and the number of each run's map."""
    maps: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    of_run: list[int | None] = []
    for run, features in zip(content.runs, content.features, strict=True):
        if features is None:
            of_run.append(None)
            continue
        if features.fingerprint not in numbers:
            numbers[features.fingerprint] = len(maps)
            readable = features.readable()
            places, method = project(readable.image_features)
            photos = [content.album.number(path) for path in readable.paths]
            about = {"method": method, "model": run.run.evaluation.model, "photos": photos}
            maps.append(about | _whole(places))
        of_run.append(numbers[features.fingerprint])
    return maps, of_run


def _whole(places: FloatArray) -> dict[str, Any]:
    """Return coordinates as whole numbers from 0, turned so that the longer side lies across."""
    if not len(places):
        return {"x": [], "y": [], "width": 1, "height": 1}
    centred = places - places.mean(axis=0)
    turned = centred @ np.linalg.svd(centred, full_matrices=False)[2].T  # (n, 2)
    sides = np.ptp(turned, axis=0)
    whole = np.rint((turned - turned.min(axis=0)) * (MAP_SIZE / max(float(sides.max()), 1e-9))).astype(int)
    x, y = whole[:, 0].tolist(), whole[:, 1].tolist()
    return {"x": x, "y": y, "width": max(*x, 1), "height": max(*y, 1)}


def _displayable(path: str) -> str:
    """Return a path whose undecodable bytes are shown as escapes."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
