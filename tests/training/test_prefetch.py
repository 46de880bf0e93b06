from __future__ import annotations

import threading
from contextlib import closing

import pytest

from flip.training.prefetch import prefetch


def test_results_come_in_order_whatever_the_threads_do():
    barrier = threading.Barrier(2, timeout=20)

    def late(n):
        if n < 2:  # the first two run at the same time
            barrier.wait()
        return n * n

    batches = prefetch(late, [[0, 1], [2], [3, 4, 5]], workers=4)
    assert [[future.result() for future in futures] for futures in batches] == [[0, 1], [4], [9, 16, 25]]


@pytest.mark.parametrize("ahead", [0, 2])
def test_no_more_batches_are_read_than_asked(ahead):
    read = []

    def batches():
        for n in range(9):
            read.append(n)
            yield [n]

    with closing(prefetch(str, batches(), 1, ahead=ahead)) as decoded:
        assert next(decoded)[0].result() == "0"
        assert len(read) == 1 + ahead
        next(decoded)
        assert len(read) == 2 + ahead


def test_an_error_belongs_to_its_item():
    futures = next(prefetch(int, [["1", "x", "3"]], 1))
    assert (futures[0].result(), futures[2].result()) == (1, 3)
    with pytest.raises(ValueError, match="invalid literal"):
        futures[1].result()
