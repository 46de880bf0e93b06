"""Shards: contiguous blocks of a listing that are embedded apart, by a number that the user or a Slurm array gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flip.errors import ConfigError

#: The word of ``--shard`` that takes the numbers of a Slurm array.
AUTO = "auto"

_SLURM = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True)
class Shard:
    """Block ``index`` (from 0) of ``count``."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def rows(self, n: int) -> range:
        """Return this shard's rows of a listing of n.

        A block of neighbours, so that the parts one after the other are the listing, and that archives and disks are
        read in order. Sizes differ by one at most; of more shards than rows some are empty.
        """
        return range(self.index * n // self.count, (self.index + 1) * n // self.count)


def parse_shard(given: str) -> Shard | None:
    """Return the shard that ``I/N`` names; None for ``auto``.

    Raises
    ------
    ConfigError
        If it is neither, or I is not below N.
    """
    if given == AUTO:
        return None
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", given, re.ASCII)
    if found is None or int(found[2]) == 0:
        raise ConfigError(f"--shard {given} is no shard; pass I/N, such as 0/4 to 3/4, or auto in a Slurm array")
    shard = Shard(int(found[1]), int(found[2]))
    if shard.index >= shard.count:
        raise ConfigError(
            f"--shard {given}: shards count from 0; pass 0/{shard.count} to {shard.count - 1}/{shard.count}"
        )
    return shard


def slurm_shard(environment: Mapping[str, str], *, siblings: bool = False) -> Shard:
    """Return the shard of a task of a Slurm array: (ID − MIN) / STEP of COUNT.

    Parameters
    ----------
    environment : mapping
        Where Slurm's variables are, such as ``os.environ``.
    siblings : bool
        Whether a launcher started several processes in this task; they would all take the task's number.

    Raises
    ------
    ConfigError
        Outside of an array, in an array whose numbers are not evenly spaced, and with siblings.
    """
    if siblings:
        raise ConfigError(
            "--shard auto takes a Slurm array's numbers, and this is one of several processes of a launcher; "
            "pass --shard I/N under accelerate launch"
        )
    numbers = {name: _number(environment, name) for name in ("ID", "MIN", "COUNT", "STEP")}
    step = 1 if numbers["STEP"] is None else numbers["STEP"]
    task, least, count = numbers["ID"], numbers["MIN"], numbers["COUNT"]
    if task is None or least is None or count is None:
        absent = next(name for name in ("ID", "MIN", "COUNT") if numbers[name] is None)
        raise ConfigError(
            f"--shard auto needs the numbers of a Slurm array, and {_SLURM}{absent} is no number here; "
            "run it with sbatch --array, or pass --shard I/N"
        )
    index, rest = divmod(task - least, step) if step > 0 else (-1, 0)
    if rest or not 0 <= index < count:
        raise ConfigError(
            f"--shard auto: task {task} of an array of {count} from {least} in steps of {step} is no shard; "
            "pass evenly spaced numbers such as sbatch --array=0-15, or --shard I/N"
        )
    return Shard(index, count)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(_SLURM + name, "").strip()
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None
