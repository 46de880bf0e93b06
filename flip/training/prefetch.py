"""Decoding ahead of the network: one pool of threads, results in order, a bounded number of batches in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from flip.device import cpu_count

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Batches that are decoded, or being decoded, while the network works on one.
BATCHES_AHEAD = 2


def prefetch(
    function: Callable[[Item], Result],
    batches: Iterable[Iterable[Item]],
    workers: int | None,
    *,
    ahead: int = BATCHES_AHEAD,
) -> Generator[list[Future[Result]]]:
    """Yield, for each batch, the futures of ``function`` of its items, in order.

    Parameters
    ----------
    function : callable
        Called in threads; an error is raised by the future's ``result()``.
    batches : iterable of iterables
        Read lazily, ``ahead`` batches before the one that is yielded.
    workers : int or None
        Threads; one per CPU core when None.
    ahead : int
        Batches submitted beyond the one that is yielded.
    """
    pending: deque[list[Future[Result]]] = deque()
    todo = iter(batches)
    with ThreadPoolExecutor(workers or cpu_count()) as pool:
        try:
            while True:
                while len(pending) <= ahead and (batch := next(todo, None)) is not None:
                    pending.append([pool.submit(function, item) for item in batch])
                if not pending:
                    return
                yield pending.popleft()
        finally:
            for futures in pending:
                for future in futures:
                    future.cancel()
