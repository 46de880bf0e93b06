"""Where a run stands, who hears of it, and how it is asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepReport:
    """What a progress bar shows after a step: its number of all, its loss, and how many photos it took."""

    step: int
    steps: int
    loss: float
    photos: int


@dataclass
class Listener:
    """What is called while a run goes on."""

    on_step: Callable[[StepReport], None] = lambda report: None
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None
    on_note: Callable[[str], None] = lambda text: None


@dataclass
class RunState:
    """Where a run stands, beside weights and optimiser."""

    step: int = 0
    #: Sum of the losses of the present epoch's steps.
    loss_sum: float = 0.0
    seconds: float = 0.0
    #: Zero-shot of the validation photos before training.
    start_top1: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_file: str | None = None
    stopped: bool = False


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Turn Ctrl-C, and a request to end, into an event that is looked at between steps; a second ends at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def remember(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
