"""Several processes on the same photos share the work, whoever dies or stands still."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flip.embed import claims
from flip.embed.cache import EmbeddingCache
from flip.embed.claims import Claims
from flip.embed.index import KeyIndex
from flip.embed.rows import NewRow
from flip.errors import DataError
from tests.embed.plain_encoder import embed, extractor, images_folder, key, unit, write_photos

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys
from pathlib import Path
from tests.embed.plain_encoder import PlainEncoder, extractor
run = extractor(Path(sys.argv[1]), PlainEncoder(float(sys.argv[2])))
print("ready", flush=True)
files = json.loads(sys.stdin.readline())
print("began", flush=True)
rows = [batch.embeddings.tolist() for batch in run.stream(files)]
print(json.dumps([run.photos_read, sum(rows, [])]))
"""


def start(cache, *orders, seconds=0.05):
    """Start processes at once, one for each list of photos; each embeds a batch of 4 in so many seconds."""
    command = [sys.executable, "-c", PROGRAM, str(cache), str(seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), **pipes) for _ in orders]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process, files in zip(processes, orders, strict=True):
        process.stdin.write(json.dumps([str(file) for file in files]) + "\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout.readline() == "began\n"
    return processes


def result(process):
    read, rows = json.loads(process.stdout.read())
    assert process.wait() == 0
    return read, np.array(rows, np.float32)


@pytest.mark.parametrize(("processes", "order"), [(2, "same"), (3, "same"), (2, "reversed")])
def test_each_photo_is_embedded_by_one_process(tmp_path, processes, order):
    files = write_photos(tmp_path / "photos", 120)
    orders = [files, files[::-1] if order == "reversed" else files, files][:processes]
    results = [result(process) for process in start(tmp_path / "c", *orders)]
    expected, _, _ = embed(tmp_path / "alone", files)
    for listed, (_, rows) in zip(orders, results, strict=True):
        assert (rows == (expected if listed is files else expected[::-1])).all()
    read = [read for read, _ in results]
    assert sum(read) == len(files)
    assert min(read) >= 8, "each did some of it"


@pytest.mark.parametrize("after", [0.1, 0.5, 1.0])
def test_what_a_killed_process_had_begun_is_done_by_the_others(tmp_path, after):
    files = write_photos(tmp_path / "photos", 120)
    victim, survivor = start(tmp_path / "c", files, files)
    time.sleep(after)
    victim.kill()
    victim.wait()
    read, rows = result(survivor)
    assert (rows == embed(tmp_path / "alone", files)[0]).all()
    assert read > 0
    assert embed(tmp_path / "c", files)[2] == 0


def test_a_killed_process_loses_seconds_of_its_work(tmp_path):
    files = write_photos(tmp_path / "photos", 400)
    (victim,) = start(tmp_path / "c", files)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("c/*/images/[!.]*.parquet")):
        assert time.monotonic() < deadline, "a part is written soon"
        time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert embed(tmp_path / "c", files)[2] < len(files)


def test_the_claims_of_a_process_that_stands_still_are_taken_over(tmp_path, monkeypatch):
    files = write_photos(tmp_path / "photos", 40)
    (process,) = start(tmp_path / "c", files, seconds=0.5)
    time.sleep(0.7)
    process.send_signal(signal.SIGSTOP)
    try:
        # Its last renewal counts as expired for this process.
        real = time.time
        monkeypatch.setattr(claims.time, "time", lambda: real() + claims.LEASE + 1)
        rows, errors, read = embed(tmp_path / "c", files)
    finally:
        process.send_signal(signal.SIGCONT)
    assert errors == [None] * 40
    assert read > 30
    assert (result(process)[1] == rows).all()


def two_caches(folder):
    return EmbeddingCache(folder, "f1", 2), EmbeddingCache(folder, "f1", 2)


def test_what_is_claimed_is_not_granted_again_until_it_is_released(tmp_path):
    keys = [key(i) for i in range(5)]
    with two_caches(tmp_path)[0] as a, two_caches(tmp_path)[1] as b:
        assert a.claim(keys[:3]) == set(keys[:3])
        assert b.claim(keys) == set(keys[3:])
        a.release(keys[:1])
        assert b.claim(keys[:3]) == {keys[0]}
        a.add(NewRow(keys[1], unit(1, 0)))
        a.flush()
        assert b.claim(keys[:3]) == {keys[0], keys[1]}
    with EmbeddingCache(tmp_path, "f1", 2) as c:
        assert c.claim(keys) == set(keys), "a process that ends leaves none"


@pytest.mark.parametrize(
    ("owner", "until", "over"),
    [
        ("other-1-a", 60.0, False),
        ("other-1-a", -1.0, True),
        ("other-1-a", 10_000.0, True),
        ("here-{dead}-a", 60.0, True),
        ("here-{alive}-a", 60.0, False),
        ("", 60.0, False),
        ("here-x", 60.0, True),
    ],
)
def test_a_claim_is_over_with_its_time_or_its_process(tmp_path, monkeypatch, owner, until, over):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setattr(claims, "host_id", lambda: "here")
    owner = owner.format(dead=dead.pid, alive=os.getppid())
    ours = Claims(KeyIndex(tmp_path / "i.sqlite"))
    with ours._index.writing() as db:
        db.execute("INSERT INTO claims VALUES (77, ?, ?)", (owner, time.time() + until))
    assert ours.take([77]) == ({77} if over else set())


def test_a_photo_that_failed_for_want_of_memory_is_tried_by_the_other_process(tmp_path, monkeypatch):
    files = [str(file) for file in write_photos(tmp_path / "photos", 4)]
    first = extractor(tmp_path / "c").stream(files)
    with monkeypatch.context() as patched:

        def fails(*_):
            raise DataError("image too large: out of memory") from MemoryError()

        patched.setattr("flip.embed.decoding.decode_image", fails)
        assert all(next(first).errors)
    # The first has not ended yet.
    assert next(extractor(tmp_path / "c").stream(files)).errors == [None] * 4
    first.close()


def test_a_stream_that_is_closed_gives_up_its_claims(tmp_path):
    files = [str(file) for file in write_photos(tmp_path / "photos", 30)]
    stream = extractor(tmp_path / "c").stream(files)
    next(stream)
    stream.close()
    with extractor(tmp_path / "c").open_cache() as cache, cache.store.index.reading() as db:
        assert db.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    assert embed(tmp_path / "c", files)[2] == 26


def test_processes_that_make_the_index_at_once_agree(tmp_path):
    files = write_photos(tmp_path / "photos", 60)
    expected, _, _ = embed(tmp_path / "c", files)
    for _ in range(3):
        images_folder(tmp_path / "c").with_name("images.sqlite").unlink()
        for process in start(tmp_path / "c", files, files, files):
            read, rows = result(process)
            assert read == 0
            assert (rows == expected).all()
