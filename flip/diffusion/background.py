"""Calls in a thread of their own, so that the next batch is drawn while files are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

#: Calls that may wait for a slow disk before drawing does.
_MOST_WAITING = 64


def in_the_background(write: Callable[..., None], calls: Iterable[tuple[object, ...]]) -> None:
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
