"""Whether a folder's run is resumed, begun or refused: by the resume key that it was begun with."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from flip.errors import CheckpointError, ConfigError, reason_of
from flip.files import claim_folder, require_same_key, write_json
from flip.machine import versions
from flip.reading import read_json
from flip.results import FORMAT

log = logging.getLogger(__name__)

#: Files and folders of a run: what it was begun with, its checkpoints, and what a diffusion run kept before these.
ENVIRONMENT, CHECKPOINTS, OLD_CHECKPOINT = "environment.json", "checkpoints", "checkpoint.pt"

_ADVICE = "pass them as they were to resume it, --overwrite to begin again, or another folder"

_KEY, _OLD_KEY = "resume_key", "decisive"


def may_resume(
    folder: Path, key: Mapping[str, object], *, result: str, work: Sequence[str] = (), resume: bool, overwrite: bool
) -> bool:
    """Return whether a folder holds an unfinished run to resume; without one a new run may begin there.

    Parameters
    ----------
    folder : Path
    key : mapping
        All that must be the same for a run to be resumed.
    result : str
        The file that a finished run has.
    work : sequence of str
        Files and folders beside ``checkpoints`` that hold work of an unfinished run.
    resume, overwrite : bool
        Refuse a folder without a run; begin a new run in place of the folder's.

    Raises
    ------
    ConfigError
        If the folder holds other work, a finished run, or a run with another key; the message names the differences.
    CheckpointError
        If the run was begun by an earlier flip whose checkpoint cannot be read.
    """
    if overwrite and not resume:
        claim_folder(folder, overwrite=True)
        return False
    begun = _is_begun(folder, must=resume)
    claim_folder(folder, ENVIRONMENT)
    if not begun:
        return False
    if (folder / result).is_file():
        raise ConfigError(f"-o {folder} holds a finished run; pass --overwrite to replace it, or another folder")
    # One without any work ended before its first checkpoint, on a wrong option perhaps: nothing is lost.
    if not any((folder / name).exists() for name in (CHECKPOINTS, *work)):
        return False
    require_same_key(folder, _read_key(folder), key, _ADVICE)
    return True


def _is_begun(folder: Path, *, must: bool) -> bool:
    """Return whether a run was begun in the folder, or raise if it cannot be resumed, or ``must`` be there."""
    begun = (folder / ENVIRONMENT).is_file()
    if (folder / OLD_CHECKPOINT).is_file():
        raise CheckpointError(
            f"{folder / OLD_CHECKPOINT} was written by an earlier flip and cannot be resumed from; "
            "finish that run with the flip that began it, or pass --overwrite to begin again"
        )
    if must and not begun:
        raise ConfigError(f"--resume: {folder} holds no run of flip finetune; leave --resume out to begin one")
    return begun


def begin_run(folder: Path, key: Mapping[str, object], own: Sequence[str]) -> None:
    """Write what a new run begins with; of an earlier run only its ``own`` files and folders are removed.

    Raises
    ------
    ConfigError
        If the folder holds files of these names and no run: they are somebody else's.
    """
    names = (*own, ENVIRONMENT, OLD_CHECKPOINT, CHECKPOINTS)
    if not any((folder / name).is_file() for name in (ENVIRONMENT, OLD_CHECKPOINT)):
        strange = next((name for name in names if (folder / name).exists()), None)
        if strange is not None:
            raise ConfigError(f"-o {folder} holds {strange}, which is of no run of flip finetune; pass another folder")
    for name in names:
        path = folder / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    fingerprints = {name: value for name, value in key.items() if name.endswith("fingerprint")}
    about = {"command": "finetune", "format": FORMAT, "versions": versions(), **fingerprints}
    write_json(folder / ENVIRONMENT, {**about, _KEY: key})


def finished_result(file: Path, *, resume: bool) -> dict[str, object] | None:
    """Return what a finished run wrote, where one is to be resumed; there is nothing left to do.

    Raises
    ------
    CheckpointError
        If the file is damaged.
    """
    if not (resume and file.is_file()):
        return None
    try:
        content: dict[str, object] = read_json(file)
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{file} is damaged ({reason_of(e)}); pass --overwrite to begin again") from e
    log.info(f"the run in {file.parent} is finished; --overwrite begins it again")
    return content


def _read_key(folder: Path) -> dict[str, object]:
    try:
        content = read_json(folder / ENVIRONMENT)
        key: dict[str, object] = content[_KEY if _KEY in content else _OLD_KEY]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{folder / ENVIRONMENT} is damaged ({e!r}); pass --overwrite to begin again") from e
    return key
