"""Many small parts become few, beside readers and writers, and wherever a process is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flip.embed import merge
from flip.embed.cache import EmbeddingCache
from flip.embed.index import IndexRow, KeyIndex
from flip.embed.rows import NewRow
from flip.embed.text_cache import TextCache
from tests.embed.plain_encoder import embed, images_folder, key, unit, write_photos

ROOT = Path(__file__).resolve().parents[2]


def add_parts(folder, parts, rows=3, first=0):
    with EmbeddingCache(folder, "f1", 3) as cache:
        for part in range(first, first + parts):
            for row in range(rows):
                i = part * rows + row
                cache.add(NewRow(key(i, ctime=7), unit(i + 1, 2, 3), None, f"{i:064x}"))
            cache.flush()


def require_all(folder, n, missing=()):
    with EmbeddingCache(folder, "f1", 3) as cache:
        found = cache.look_up([key(i, ctime=7) for i in range(n)])
        assert found.known.all()
        assert found.embeddings == pytest.approx(np.stack([unit(i + 1, 2, 3) for i in range(n)]), abs=1e-3)


def part_names(folder):
    return sorted(path.name for path in images_folder(folder).iterdir())


@pytest.mark.parametrize("parts", [33, 50, 100])
def test_small_parts_are_merged(tmp_path, parts):
    add_parts(tmp_path, parts)
    assert len(part_names(tmp_path)) <= merge.MANY
    require_all(tmp_path, 3 * parts)
    (tmp_path / "f1" / "images.sqlite").unlink()
    require_all(tmp_path, 3 * parts)


def test_few_parts_and_large_ones_stay(tmp_path, monkeypatch):
    add_parts(tmp_path, merge.MANY)
    before = part_names(tmp_path)
    assert len(before) == merge.MANY
    monkeypatch.setattr(merge, "SMALL", 3)
    add_parts(tmp_path, 3, first=merge.MANY)
    assert set(before) < set(part_names(tmp_path))


def test_merged_parts_have_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "MERGED", 30)
    add_parts(tmp_path, 33)
    assert len(part_names(tmp_path)) == 4
    require_all(tmp_path, 99)


def test_a_row_that_was_added_twice_is_kept_once_and_the_last(tmp_path):
    with EmbeddingCache(tmp_path, "f1", 2) as cache:
        for i in range(40):
            cache.add(NewRow(key("a", ctime=7), unit(1, i), None, "a" * 64))
            cache.add(NewRow(key("a", mtime=100 + i, ctime=7), unit(2, i), None, "b" * 64))
            cache.flush()
        found = cache.look_up([key("a", ctime=7), *(key("a", mtime=100 + i, ctime=7) for i in range(40))])
    assert found.known.all()
    assert found.embeddings[0] == pytest.approx(unit(1, 39), abs=1e-3)
    assert found.embeddings[-1] == pytest.approx(unit(2, 39), abs=1e-3)


def test_files_that_share_a_row_share_it_after_a_merge(tmp_path):
    add_parts(tmp_path, 20)
    copies = [key(f"copy-{i}", ctime=8) for i in range(60)]
    with EmbeddingCache(tmp_path, "f1", 3) as cache:
        assert cache.look_up_contents(copies, [f"{i:064x}" for i in range(60)]).known.all()
    add_parts(tmp_path, 20, first=20)
    with EmbeddingCache(tmp_path, "f1", 3) as cache:
        found = cache.look_up(copies)
    assert found.known.all()
    assert found.embeddings == pytest.approx(np.stack([unit(i + 1, 2, 3) for i in range(60)]), abs=1e-3)


def test_a_damaged_part_does_not_keep_the_others_from_being_merged(tmp_path, caplog):
    add_parts(tmp_path, merge.MANY)
    part = images_folder(tmp_path) / part_names(tmp_path)[3]
    part.write_bytes(part.read_bytes()[:-9])
    add_parts(tmp_path, 2, first=merge.MANY)
    assert sum(name.endswith(".parquet") for name in part_names(tmp_path)) <= 3
    assert len(caplog.records) == 1
    with EmbeddingCache(tmp_path, "f1", 3) as cache:
        assert cache.look_up([key(i, ctime=7) for i in range(3 * merge.MANY + 6)]).known.sum() == 3 * merge.MANY + 3


def test_texts_are_merged_too(tmp_path):
    for i in range(40):
        TextCache(tmp_path, "f1", 3).add([f"bird {i}"], unit(i, 1, 2)[None])
    assert len(list((tmp_path / "f1" / "texts").iterdir())) < 10
    embeddings, known = TextCache(tmp_path, "f1", 3).look_up([f"bird {i}" for i in range(40)])
    assert known.all()
    assert (embeddings == np.stack([unit(i, 1, 2) for i in range(40)])).all()


def test_a_reader_that_looked_before_a_merge_reads_after_it(tmp_path):
    add_parts(tmp_path, 30)
    with EmbeddingCache(tmp_path, "f1", 3) as reader:
        places = reader.store.find([place.about.key for place in reader._settled([key(1, ctime=7)], "exact")[1]])
        add_parts(tmp_path, 10, first=30)
        assert not (images_folder(tmp_path) / places[0].part).exists()
        assert reader.look_up([key(i, ctime=7) for i in range(120)]).known.all()


KILLED = """
import os, sys
from pathlib import Path
from flip.embed import merge, store, index, parts
from tests.embed.test_merge import add_parts
stage = sys.argv[2]
def kill(*_):
    os.kill(os.getpid(), 9)
real_write, real_move, real_remove = merge.write_part, index.KeyIndex.move, store.PartStore.remove
def write_part(*arguments):
    name = real_write(*arguments)
    if stage == "written": kill()
    return name
def move(self, *arguments):
    if stage == "inside the index":
        self.writing = lambda: Killing(type(self).writing(self))
    real_move(self, *arguments)
    if stage == "indexed": kill()
class Killing:
    def __init__(self, real): self.real = real
    def __enter__(self): return self.real.__enter__()
    def __exit__(self, *_): kill()
def remove(self, name):
    real_remove(self, name)
    if stage == "removing": kill()
merge.write_part, index.KeyIndex.move, store.PartStore.remove = write_part, move, remove
if stage == "writing":
    import pyarrow.parquet as pq
    real = pq.write_table
    def write_table(table, file, **more):
        if len(table) > 3:
            Path(file).write_bytes(b"PAR1 half"); kill()
        real(table, file, **more)
    pq.write_table = write_table
add_parts(Path(sys.argv[1]), 40)
"""


@pytest.mark.parametrize("lost", [False, True], ids=["with the index", "index lost"])
@pytest.mark.parametrize("stage", ["writing", "written", "inside the index", "indexed", "removing"])
def test_a_process_that_is_killed_while_it_merges_loses_nothing(tmp_path, stage, lost):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), stage], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    if lost:
        for file in (tmp_path / "f1").glob("images.sqlite*"):
            file.unlink()
    require_all(tmp_path, 3 * (merge.MANY + 1))
    add_parts(tmp_path, 7, first=merge.MANY + 1)
    require_all(tmp_path, 120)
    assert len(part_names(tmp_path)) <= merge.MANY
    assert not [name for name in part_names(tmp_path) if not name.endswith(".parquet")], "nothing is left behind"


RACING = """
import sys
from pathlib import Path
from flip.embed import merge
from tests.embed.test_merge import add_parts, require_all
merge.MANY = 4
add_parts(Path(sys.argv[1]), 40, first=int(sys.argv[2]))
"""


def test_writers_that_merge_and_readers_do_not_harm_each_other(tmp_path):
    add_parts(tmp_path, 10)
    command = [sys.executable, "-c", RACING, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(first)], cwd=ROOT, env=dict(os.environ)) for first in (10, 50, 90)]
    while any(writer.poll() is None for writer in writers):
        require_all(tmp_path, 30)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    require_all(tmp_path, 390)
    (tmp_path / "f1" / "images.sqlite").unlink()
    require_all(tmp_path, 390)
    assert len(part_names(tmp_path)) < 60


def test_a_merge_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch, caplog):
    from flip.errors import ConfigError

    def full(*_):
        raise ConfigError("No space left on device")

    monkeypatch.setattr(merge, "write_part", full)
    add_parts(tmp_path, 40)
    require_all(tmp_path, 120)
    assert "No space left on device" in caplog.text


def test_photos_are_embedded_into_few_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("flip.embed.cache.ROWS_A_PART", 1)
    files = write_photos(tmp_path / "photos", 70)
    rows, _, _ = embed(tmp_path / "c", files)
    assert len(part_names(tmp_path / "c")) <= merge.MANY
    again, _, read = embed(tmp_path / "c", files)
    assert read == 0
    assert (again == rows).all()


def test_moving_twice_the_rows_takes_twice_the_work(tmp_path):
    """SQLite's own count of its steps, in hundreds: a join without an index would take four times as many."""

    def steps(rows):
        index = KeyIndex(tmp_path / f"{rows}.sqlite")
        for part in range(2):
            index.add(str(part), [IndexRow(1 + rows * part + i, 1, 1, 1, 1 + rows * part + i) for i in range(rows)])
        counted = [0]

        def count():
            counted[0] += 1

        with index.reading() as db:
            db.set_progress_handler(count, 100)
        index.move("new", 2 * rows, [(str(part), i, rows * part + i) for part in range(2) for i in range(rows)])
        assert {(place.part, place.row) for place in index.find([1, 2 * rows])} == {("new", 0), ("new", 2 * rows - 1)}
        index.close()
        return counted[0]

    assert steps(2000) < 2.5 * steps(1000)
