"""The folder of a generated training set: its report, its metadata, and the attempts that were rejected."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.dataset import Dataset
from flip.diffusion.metadata import ImageMetadata
from flip.diffusion.pictures import read_metadata
from flip.diffusion.settings import DrawSettings
from flip.errors import ConfigError, DataError, reason_of
from flip.files import claim_folder, json_text, require_same_key, write_json, write_text
from flip.reading import parse_json, read_bytes, read_json
from flip.results import FORMAT, require_format

if TYPE_CHECKING:
    from flip.diffusion.judge import Verdict
    from flip.diffusion.painter import Picture
    from flip.diffusion.slots import Slot

log = logging.getLogger(__name__)

#: How its images were drawn, and what became of all attempts.
REPORT_FILE = "augment.json"
REJECTED_FILE = "rejected.jsonl"
METADATA_FILE = "metadata.jsonl"


@dataclass
class Tally:
    """Counts of all attempts so far.

    Attributes
    ----------
    wanted, kept, drawn : int
        Images wanted, images kept, and attempts.
    dropped : dict
        Count of each reason.
    near_test : list of dict
        ``file`` and ``photo`` of each image that is a near copy of a test photo.
    short : dict
        Images missing of each class that is short.
    """

    wanted: int = 0
    kept: int = 0
    drawn: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    near_test: list[dict[str, str]] = field(default_factory=list)
    short: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kept} of {self.wanted} images after {self.drawn} attempts ({describe_drops(self)})"


def append_rejected(folder: Path, slot: Slot, picture: Picture, verdict: Verdict, attempt: int) -> None:
    """Append a rejected attempt: one short line, written at once, which several processes may do."""
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


def read_rejected(folder: Path) -> dict[tuple[str, int], str]:
    """Read the rejected attempts: (file, attempt) → reason. A line that is no such row is left out, and said."""
    file = folder / REJECTED_FILE
    if not file.is_file():
        return {}
    rows, odd = {}, []
    for number, line in enumerate(read_bytes(file).split(b"\n"), 1):
        try:
            row = parse_json(line) if line.strip() else None
            if row is not None:
                rows[str(row["file"]), int(row["attempt"])] = str(row["dropped"])
        except (ValueError, TypeError, KeyError):
            odd.append(number)  # as of a run that was killed in the middle of a line
    if odd:
        log.info("%s: line %d is no rejected attempt; %d such lines are left out", file, odd[0], len(odd))
    return rows


def begin(folder: Path, key: Mapping[str, object], *, overwrite: bool) -> None:
    """Make the folder, or check that what it holds was drawn in the same way, so that it can be resumed.

    Raises
    ------
    ConfigError
        If it holds other work, or images that were drawn otherwise.
    """
    ours = claim_folder(folder, REPORT_FILE, overwrite=overwrite)
    if ours and not overwrite:
        advice = "pass the same to resume, -o with another folder, or --overwrite to draw all again"
        require_same_key(folder, _read_key(folder / REPORT_FILE), key, advice)
    if ours and overwrite:
        _clear(folder)
    write_json(folder / REPORT_FILE, {"command": "augment", "format": FORMAT, "drawn_with": key})


def _read_key(file: Path) -> dict[str, object]:
    try:
        content = read_json(file)
        require_format(content, str(file))
        return dict(content.get("drawn_with", {}))
    except (OSError, ValueError, TypeError, AttributeError) as e:
        reason = reason_of(e)
        raise ConfigError(
            f"{file} is not what flip augment wrote ({reason}); pass -o with another folder, or --overwrite"
        ) from e


def _clear(folder: Path) -> None:
    """Remove what an earlier run drew, and nothing else."""
    for file, _ in _own_images(folder):
        file.unlink()
    (folder / REJECTED_FILE).unlink(missing_ok=True)
    (folder / METADATA_FILE).unlink(missing_ok=True)


def finish(folder: Path, slots: Sequence[Slot], key: Mapping[str, object], *, write: bool = True) -> Tally:
    """Count what all runs into this folder drew, and write ``metadata.jsonl`` and the report.

    Raises
    ------
    DataError
        If no image was kept.
    """
    rejected = read_rejected(folder)
    rows = [{"file_name": file.relative_to(folder).as_posix(), **m.to_row()} for file, m in _own_images(folder)]
    tally = Tally(wanted=len(slots), dropped=dict(Counter(rejected.values())))
    missing = [slot for slot in slots if not (folder / slot.file).is_file()]
    tally.kept = len(slots) - len(missing)
    tally.drawn = len(rows) + len(rejected)
    tally.short = dict(Counter(slot.classname for slot in missing))
    tally.near_test = [{"file": str(r["file_name"]), "photo": str(r["near_test"])} for r in rows if r["near_test"]]
    if rows and write:
        write_text(folder / METADATA_FILE, "".join(json_text(row) + "\n" for row in rows))
    if write:
        report = {"command": "augment", "format": FORMAT, "drawn_with": key, **asdict(tally)}
        write_json(folder / REPORT_FILE, report)
    if not rows:
        raise DataError(
            f"none of {tally.drawn} images was kept ({describe_drops(tally)}); fine-tune the model on these photos "
            "(flip finetune --target diffusion), or pass --filter none"
        )
    return tally


def _own_images(folder: Path) -> Iterator[tuple[Path, ImageMetadata]]:
    """Yield the images that flip drew, with their metadata; each file is opened once, others are left alone."""
    for file in sorted((folder / "train").rglob("*.png")):
        try:
            metadata = read_metadata(file)
        except DataError as e:
            log.warning("%s", e)
            continue
        if metadata.label is not None:
            yield file, metadata


def describe_drops(tally: Tally) -> str:
    """Describe how many images were dropped, and why: ``500 CLIP sees another class, 2 copies a training photo``."""
    return ", ".join(f"{n} {reason}" for reason, n in sorted(tally.dropped.items())) or "none dropped"


def resume_key(
    dataset: Dataset,
    settings: DrawSettings,
    *,
    fingerprint: str,
    seed: int,
    prompts: Sequence[Sequence[str]],
    filter: str,
) -> dict[str, object]:
    """Return the settings that must match for a run to be resumed: all but the number of images."""
    texts = hashlib.sha256(json.dumps(prompts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    own = {"data": dataset.fingerprint(), "ckpt": fingerprint, "seed": seed, "prompts": texts, "filter": filter}
    return {**own, **settings.to_dict()}
