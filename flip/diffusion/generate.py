"""Prompts in, picture files out: what is there already stays, the rest is drawn in order and written as it comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flip.diffusion.checkpoint import Loaded
from flip.diffusion.painter import DrawSettings, Painter, Picture, picture_seed
from flip.diffusion.pictures import save_picture, slug
from flip.files import claim_folder, write_json

#: In a folder of generated pictures: the settings of the last run, and the sign that the folder is one.
MARK_FILE = "generate.json"

#: Pictures that may wait for a slow disk before drawing does.
_MOST_WAITING = 64


@dataclass(frozen=True)
class Planned:
    """A picture and the file it goes to; ``index`` counts the pictures of one prompt."""

    picture: Picture
    file: Path
    index: int


def plan_pictures(
    prompts: Sequence[str], n: int, folder: Path, *, seed: int, settings: DrawSettings, fingerprint: str
) -> list[Planned]:
    """Return ``n`` pictures of each prompt with their seeds and files.

    A file's name begins with the prompt's words and ends in a hash of everything that decides the picture: another
    model, seed or setting draws into other files, and the same ones find what is there.
    """
    planned = []
    for prompt in prompts:
        decided = json.dumps([prompt, seed, fingerprint, asdict(settings)])
        key = hashlib.sha256(decided.encode("utf-8", "surrogatepass")).hexdigest()[:10]
        for index in range(n):
            picture = Picture(prompt, picture_seed(seed, prompt, index))
            planned.append(Planned(picture, folder / f"{slug(prompt)}-{key}-{index:03d}.png", index))
    return planned


def generate(
    painter: Painter,
    planned: Sequence[Planned],
    about: dict[str, Any],
    done: Callable[[Planned, bool], None],
    *,
    overwrite: bool = False,
) -> None:
    """Draw what is missing, write each file, and call ``done`` for every picture in the order planned.

    Parameters
    ----------
    painter : Painter
    planned : sequence of Planned
    about : dict
        What every file says of its origin beside its own settings.
    done : callable
        Called with the picture and whether it was drawn now, as soon as its file is whole, from another thread.
    overwrite : bool
        Draw also what is there.
    """
    missing = _missing(planned, overwrite=overwrite)
    to_draw = (p.picture for p in planned if id(p) in missing)
    drawn = painter.draw(to_draw)

    def write(p: Planned, image: Any) -> None:
        if image is not None:
            save_picture(image, p.file, p.picture.prompt, {**about, **painter.about(p.picture), "index": p.index})
        done(p, image is not None)

    in_the_background(write, ((p, next(drawn)[1] if id(p) in missing else None) for p in planned))


def _missing(planned: Sequence[Planned], *, overwrite: bool) -> set[int]:
    """Return the identities of the pictures to draw; one that is planned twice is drawn once."""
    seen: set[Path] = set()
    missing = set()
    for p in planned:
        if p.file not in seen and (overwrite or not p.file.is_file()):
            missing.add(id(p))
        seen.add(p.file)
    return missing


def in_the_background(write: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> None:
    """Make calls one after another in a thread of their own, so that the next batch is drawn while files are written.

    An error in a call is raised here, before the next item is asked for.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[None]] = []
        try:
            for arguments in calls:
                waiting.append(pool.submit(write, *arguments))
                waiting = list(_unfinished(waiting))
                if len(waiting) > _MOST_WAITING:
                    waiting.pop(0).result()
        finally:
            pool.shutdown(wait=True)
        for future in waiting:
            future.result()


def _unfinished(futures: Iterable[Future[None]]) -> Iterator[Future[None]]:
    for future in futures:
        if future.done():
            future.result()
        else:
            yield future


def prepare_folder(folder: Path, loaded: Loaded, settings: DrawSettings, *, overwrite: bool) -> None:
    """Make a folder for pictures, or see that it is one.

    Raises
    ------
    ConfigError
        If the folder holds other work.
    """
    claim_folder(folder, MARK_FILE, overwrite=overwrite)
    write_json(folder / MARK_FILE, {"ckpt": loaded.name, "fingerprint": loaded.fingerprint, **asdict(settings)})
