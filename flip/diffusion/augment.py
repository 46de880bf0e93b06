"""A labelled, balanced, filtered training set drawn for a dataset: ``train/<class>/*.png`` and ``metadata.jsonl``."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flip.data.dataset import Dataset
from flip.diffusion.generate import in_the_background
from flip.diffusion.judge import Judge, Verdict
from flip.diffusion.painter import DrawSettings, Painter, Picture, picture_seed
from flip.diffusion.pictures import read_about, save_picture, slug
from flip.errors import ConfigError, DataError
from flip.files import claim_folder, write_json, write_text

#: In the folder: how its pictures were drawn, and what became of all drawings.
REPORT_FILE = "augment.json"
REJECTED_FILE = "rejected.jsonl"

_JUDGED_TOGETHER = 16


def class_folder(raw_name: str) -> str:
    """Return a class's raw name as far as file systems can hold it."""
    return re.sub(r'[\x00-\x1f\\/:*?"<>|]', "_", raw_name).strip(". ") or "_"


@dataclass(frozen=True)
class Slot:
    """A place for one picture of a class: number ``number`` among those wanted."""

    label: int
    classname: str
    raw_name: str
    number: int
    prompts: tuple[str, ...]
    photos: tuple[Path, ...]
    seed: int

    @property
    def file(self) -> str:
        """The picture's path below the folder; a class's folder is its raw name as far as file systems can hold it."""
        return f"train/{class_folder(self.raw_name)}/{slug(self.classname)}-{self.number:04d}.png"

    def picture(self, attempt: int) -> Picture:
        """Return what is drawn at an attempt: each takes the next prompt and the next photo, and another seed."""
        turn = self.number + attempt
        prompt = self.prompts[turn % len(self.prompts)]
        source = self.photos[turn % len(self.photos)] if self.photos else None
        return Picture(prompt, picture_seed(self.seed, f"{self.raw_name}\0{self.number}\0{prompt}", attempt), source)


@dataclass
class Tally:
    """What became of the drawings so far; ``dropped`` counts by reason."""

    wanted: int = 0
    kept: int = 0
    drawn: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    near_test: list[dict[str, str]] = field(default_factory=list)
    short: dict[str, int] = field(default_factory=dict)


def plan_slots(
    dataset: Dataset, prompts: Sequence[tuple[str, ...]], per_class: int, *, seed: int, from_photos: bool
) -> list[Slot]:
    """Return the slots of every class, one class's turn after another's, so that an interrupted run is balanced.

    Parameters
    ----------
    dataset : Dataset
        Training photos only.
    prompts : sequence of tuples of str
        Of each class.
    per_class : int
    seed : int
        Decides in which order a class's prompts and photos take their turns.
    from_photos : bool
        Begin each picture from a training photo of the class.
    """
    by_class: list[tuple[tuple[str, ...], tuple[Path, ...]]] = []
    for label, texts in enumerate(prompts):
        generator = np.random.default_rng([seed, label])
        photos = [dataset.file(r) for r in dataset.records if r.label == label] if from_photos else []
        if from_photos and not photos:
            raise DataError(
                f"class {dataset.classnames[label]!r} has no training photo to begin from; leave out --strength"
            )
        order = generator.permutation(len(texts)), generator.permutation(len(photos))
        by_class.append((tuple(texts[i] for i in order[0]), tuple(photos[i] for i in order[1])))
    return [
        Slot(label, dataset.classnames[label], dataset.raw_names[label], number, *by_class[label], seed)
        for number in range(per_class)
        for label in range(len(by_class))
    ]


def augment(
    painter: Painter,
    judge: Judge,
    slots: Sequence[Slot],
    folder: Path,
    about: dict[str, Any],
    done: Callable[[Slot, Verdict, bool], None],
    *,
    draws: int = 5,
) -> None:
    """Draw until every slot holds a picture that the judge keeps, or has had its number of draws.

    Slots that hold a picture stay; attempts that an earlier run rejected are not repeated.

    Parameters
    ----------
    painter : Painter
    judge : Judge
    slots : sequence of Slot
    folder : Path
    about : dict
        What every file says of its origin beside its own settings.
    done : callable
        Called after each drawing, from another thread, with the slot, the verdict, and whether it is kept.
    draws : int
        Most drawings for a slot.
    """
    rejected = _read_rejected(folder)
    for attempt in range(draws):
        todo = [s for s in slots if not (folder / s.file).is_file() and (s.file, attempt) not in rejected]
        drawn = painter.draw(slot.picture(attempt) for slot in todo)

        def settle(slot: Slot, picture: Picture, image: Any, verdict: Verdict, attempt: int = attempt) -> None:
            if verdict.dropped is None:
                details = _details(slot, picture, verdict, attempt)
                save_picture(image, folder / slot.file, picture.prompt, {**about, **painter.about(picture), **details})
            else:
                _reject(folder, slot, picture, verdict, attempt)
            done(slot, verdict, verdict.dropped is None)

        in_the_background(settle, _judged(judge, todo, drawn))


def _judged(
    judge: Judge, slots: Sequence[Slot], drawn: Iterator[tuple[Picture, Any]]
) -> Iterator[tuple[Slot, Picture, Any, Verdict]]:
    waiting = iter(slots)
    while pictures := list(islice(drawn, _JUDGED_TOGETHER)):
        own = list(islice(waiting, len(pictures)))
        verdicts = judge.judge([image for _, image in pictures], [slot.label for slot in own])
        for slot, (picture, image), verdict in zip(own, pictures, verdicts, strict=True):
            yield slot, picture, image, verdict


def _details(slot: Slot, picture: Picture, verdict: Verdict, attempt: int) -> dict[str, Any]:
    return {
        "label": slot.raw_name,
        "classname": slot.classname,
        "source": str(picture.source) if picture.source else None,
        "attempt": attempt,
        "clip_label": verdict.clip_label,
        "clip_similarity": verdict.similarity,
        "clip_threshold": verdict.threshold,
        "near_test": str(verdict.near_test) if verdict.near_test else None,
    }


def _reject(folder: Path, slot: Slot, picture: Picture, verdict: Verdict, attempt: int) -> None:
    """Note a rejected attempt: one short line, appended at once, which several processes may do."""
    row = {"file": slot.file, "attempt": attempt, "dropped": verdict.dropped, "seed": picture.seed}
    row |= {"prompt": picture.prompt[:200], "copies": str(verdict.copies) if verdict.copies else None}
    row |= {"clip_label": verdict.clip_label, "clip_similarity": verdict.similarity}
    try:
        with (folder / REJECTED_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=True) + "\n")
    except OSError as e:
        raise ConfigError(
            f"{folder / REJECTED_FILE} cannot be written ({e.strerror}); pass -o with a folder that can"
        ) from e


def _read_rejected(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    file = folder / REJECTED_FILE
    rows = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a run was killed in the middle of a line
        rows[row["file"], row["attempt"]] = row
    return rows


def begin(folder: Path, decides: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder, or see that what it holds was drawn in the same way and can be gone on with.

    Raises
    ------
    ConfigError
        If it holds other work, or pictures that were drawn otherwise.
    """
    claim_folder(folder, REPORT_FILE, overwrite=overwrite)
    ours = (folder / REPORT_FILE).is_file()
    if ours and not overwrite:
        before = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8")).get("drawn_with", {})
        changed = [key for key in decides if before.get(key) != json.loads(json.dumps(decides[key], default=str))]
        if changed:
            raise ConfigError(
                f"{folder} holds pictures drawn with another {', '.join(changed)}; pass the same to go on, "
                "-o with another folder, or --overwrite to draw anew"
            )
    if ours and overwrite:
        _clear(folder)
    write_json(folder / REPORT_FILE, {"drawn_with": decides})


def _clear(folder: Path) -> None:
    """Remove what an earlier run drew, and nothing else."""
    for file in _own_pictures(folder):
        file.unlink()
    (folder / REJECTED_FILE).unlink(missing_ok=True)
    (folder / "metadata.jsonl").unlink(missing_ok=True)


def finish(folder: Path, slots: Sequence[Slot], decides: dict[str, Any]) -> Tally:
    """Write ``metadata.jsonl`` and the report of all runs into this folder, and return the counts.

    Raises
    ------
    DataError
        If no picture was kept.
    """
    rejected = _read_rejected(folder)
    rows = [_metadata(folder, file) for file in _own_pictures(folder)]
    tally = Tally(wanted=len(slots), dropped=dict(Counter(row["dropped"] for row in rejected.values())))
    missing = [slot for slot in slots if not (folder / slot.file).is_file()]
    tally.kept = len(slots) - len(missing)
    tally.drawn = len(rows) + len(rejected)
    tally.short = dict(Counter(slot.classname for slot in missing))
    tally.near_test = [{"file": r["file_name"], "photo": r["near_test"]} for r in rows if r.get("near_test")]
    if rows:
        write_text(folder / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_json(folder / REPORT_FILE, {"drawn_with": decides, **asdict(tally)})
    if not rows:
        raise DataError(
            f"none of {tally.drawn} drawings was kept ({describe_drops(tally)}); fine-tune the model on these photos "
            "(flip finetune --target diffusion), or pass --filter none"
        )
    return tally


def _own_pictures(folder: Path) -> list[Path]:
    return [file for file in sorted((folder / "train").rglob("*.png")) if "label" in read_about(file)[1]]


def _metadata(folder: Path, file: Path) -> dict[str, Any]:
    prompt, about = read_about(file)
    names = ("label", "source", "seed", "attempt", "clip_label", "clip_similarity", "clip_threshold", "near_test")
    own = {name: about.get(name) for name in names}
    return {"file_name": file.relative_to(folder).as_posix(), "text": prompt, **own}


def describe_drops(tally: Tally) -> str:
    """Return how many drawings were dropped, and why: ``500 CLIP sees another class, 2 copies a training photo``."""
    return ", ".join(f"{n} {reason}" for reason, n in sorted(tally.dropped.items())) or "none dropped"


def decides(
    dataset: Dataset, settings: DrawSettings, *, fingerprint: str, seed: int, prompts: Any, filter: str
) -> dict[str, Any]:
    """Return what decides which pictures are drawn and kept, but for how many."""
    texts = hashlib.sha256(json.dumps(prompts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    own = {"data": dataset.fingerprint(), "ckpt": fingerprint, "seed": seed, "prompts": texts, "filter": filter}
    return {**own, **asdict(settings)}
