"""Whole processes, timed with their peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Measured(NamedTuple):
    """Wall and processor seconds, and peak memory, of a process that ended well."""

    seconds: float
    cpu_seconds: float
    peak_mb: int
    output: str


def flip_command(*arguments: object) -> list[str]:
    """Return the command line of flip."""
    return [sys.executable, "-m", "flip", *map(str, arguments)]


def measured(command: Sequence[str], cache: Path | None = None, stdin: bytes = b"") -> Measured:
    """Run a command; its own peak memory is measured, not that of its children."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    if cache is not None:
        environment["FLIP_CACHE"] = str(cache)
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    # The pipes are small: what is written here is, and what is read is read before waiting.
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(stdin)
    process.stdin.close()
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors.decode()[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return Measured(round(seconds, 3), round(cpu, 3), usage.ru_maxrss // 1024, output.decode())


def load() -> str:
    """Return the load average of the last minute and the number of CPUs."""
    return f"{os.getloadavg()[0]:.1f} of {os.cpu_count()}"
