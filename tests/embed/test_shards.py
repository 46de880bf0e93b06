"""Shards: blocks of a listing, their parts, and the one table that they are joined to."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flip.data.open import open_dataset
from flip.embed import joining, row_groups, table_writer
from flip.embed.joining import join_shards
from flip.embed.shard_writer import write_shard
from flip.embed.sharding import Shard, parse_shard, slurm_shard
from flip.embed.table import TABLE_FILE, write_table
from flip.errors import ConfigError, DataError
from tests.embed.plain_encoder import PlainEncoder, extractor, write_photo

N = 23
ROOT = Path(__file__).resolve().parents[2]

#: One shard as a process of its own: photos, output folder, cache, seconds for a batch of 4, and the shard.
PROGRAM = """
import sys
from pathlib import Path
from flip.data.open import open_dataset
from flip.embed.shard_writer import write_shard
from flip.embed.sharding import parse_shard
from tests.embed.plain_encoder import PlainEncoder, extractor
photos, folder, cache, seconds, shard = sys.argv[1:]
run = extractor(Path(cache), PlainEncoder(float(seconds)))
print("ready", flush=True)
sys.stdin.readline()
write_shard(Path(folder), open_dataset(photos), run, parse_shard(shard))
print(run.photos_read)
"""


@pytest.fixture
def photos(tmp_path):
    """Class folders with 23 photos, of which one is broken and one has an odd name."""
    for i in range(N):
        write_photo(tmp_path / "photos" / f"class {i % 3}" / f"{i:02}.bmp", 11 * i)
    (tmp_path / "photos" / "class 1" / "04.bmp").write_bytes(b"BM, and nothing more")
    (tmp_path / "photos" / "class 2" / "05.bmp").rename(tmp_path / "photos" / "class 2" / "zaunkönig ’🐦.bmp")
    return tmp_path / "photos"


def run(photos, folder, *shards, **settings):
    """Run shards, each as a process of its own would."""
    for shard in shards:
        yield write_shard(folder, open_dataset(photos), extractor(folder.parent / "c", **settings), shard)


def all_of(count):
    return [Shard(i, count) for i in range(count)]


def local_table(photos, folder):
    """Return the table that one process writes."""
    dataset, own = open_dataset(photos), extractor(folder.parent / "c")
    return pq.read_table(write_table(folder, own.features(dataset), dataset, "plain", precision="fp32"))


# Blocks.


@pytest.mark.parametrize("n", [0, 1, 2, 23, 1000])
@pytest.mark.parametrize("count", [1, 2, 7, 24, 1000])
def test_blocks_are_the_listing_and_differ_by_one_row_at_most(n, count):
    blocks = [shard.rows(n) for shard in all_of(count)]
    assert list(itertools.chain(*blocks)) == list(range(n))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


@pytest.mark.parametrize(
    ("given", "shard"), [("0/1", Shard(0, 1)), ("3/4", Shard(3, 4)), ("007/10", Shard(7, 10)), ("auto", None)]
)
def test_a_shard_is_read(given, shard):
    assert parse_shard(given) == shard


@pytest.mark.parametrize(
    "given", ["4/4", "5/4", "0/0", "1", "", "/", "-1/4", "1/-4", "1.0/4", "a/b", "1/4/2", "Auto", "١/٤"]
)
def test_what_is_no_shard_is_one_line(given):
    with pytest.raises(ConfigError, match=r"pass (I/N|0/4 to 3/4)") as error:
        parse_shard(given)
    assert "\n" not in str(error.value)


def slurm(task, least, count, step=None):
    numbers = {"ID": task, "MIN": least, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(n) for name, n in numbers.items() if n is not None}


@pytest.mark.parametrize(
    ("numbers", "shard"),
    [
        (slurm(0, 0, 16, 1), Shard(0, 16)),
        (slurm(15, 0, 16, 1), Shard(15, 16)),
        (slurm(1, 1, 8, 1), Shard(0, 8)),
        (slurm(13, 5, 5, 4), Shard(2, 5)),
        (slurm(3, 0, 4), Shard(3, 4)),
    ],
)
def test_the_numbers_of_a_slurm_array(numbers, shard):
    assert slurm_shard(numbers) == shard


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({}, "SLURM_ARRAY_TASK_ID is no number here"),
        (slurm(1, 0, None), "SLURM_ARRAY_TASK_COUNT is no number here"),
        ({**slurm(1, 0, 4), "SLURM_ARRAY_TASK_MIN": "x"}, "SLURM_ARRAY_TASK_MIN is no number here"),
        (slurm(7, 1, 3, 1), "task 7 of an array of 3 from 1 in steps of 1 is no shard"),
        (slurm(2, 1, 3, 2), "task 2 of an array of 3 from 1 in steps of 2 is no shard"),
        (slurm(0, 1, 3, 1), "is no shard"),
        (slurm(1, 0, 3, 0), "is no shard"),
    ],
)
def test_other_numbers_of_slurm_are_refused(numbers, said):
    with pytest.raises(ConfigError, match=said) as error:
        slurm_shard(numbers)
    assert "--shard I/N" in str(error.value)


def test_processes_of_a_launcher_do_not_take_one_number():
    with pytest.raises(ConfigError, match="pass --shard I/N under accelerate launch"):
        slurm_shard(slurm(0, 0, 4), siblings=True)


# Parts and the table.


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 2, 0, 3, 1, 0)])
def test_joined_shards_are_the_table_of_one_process(photos, tmp_path, order):
    for _ in run(photos, tmp_path / "t", *(Shard(i, 4) for i in order)):
        pass
    joined = join_shards(tmp_path / "t")
    assert (joined.rows, joined.shards, joined.unreadable) == (N, 4, 1)
    assert [file.name for file in joined.files] == [TABLE_FILE]
    assert [path.name for path in (tmp_path / "t").iterdir()] == [TABLE_FILE]
    table, local = pq.read_table(joined.files[0]), local_table(photos, tmp_path / "local")
    assert table.equals(local)
    assert table.schema.remove_metadata() == local.schema.remove_metadata()
    read = [extractor(tmp_path / "c").features(open_dataset(tmp_path / name)) for name in ("t", "local")]
    assert (read[0].image_features == read[1].image_features).all()
    assert read[0].paths == read[1].paths == tuple(r.path for r in open_dataset(photos).records)


@pytest.mark.parametrize("count", [1, 23, 40])
def test_shards_may_be_one_or_more_than_the_photos(photos, tmp_path, count):
    written = list(run(photos, tmp_path / "t", *all_of(count)))
    assert sum(part.rows for part in written) == N
    assert pq.read_table(join_shards(tmp_path / "t").files[0]).equals(local_table(photos, tmp_path / "local"))


def test_row_groups_and_files_do_not_change_the_rows(photos, tmp_path, monkeypatch):
    for module in (row_groups, table_writer, joining):
        monkeypatch.setattr(module, "GROUP_ROWS", 5)
    list(run(photos, tmp_path / "t", *all_of(3)))
    joined = join_shards(tmp_path / "t", groups_a_file=2)
    assert [file.name for file in joined.files] == [f"embeddings-{i:05}.parquet" for i in range(3)]
    tables = [pq.read_table(file) for file in joined.files]
    assert [len(table) for table in tables] == [10, 10, 3]
    assert pq.read_table(tmp_path / "t").equals(local_table(photos, tmp_path / "local"))
    whole = open_dataset(tmp_path / "t")
    assert len(extractor(tmp_path / "c").features(whole)) == N
    assert not join_shards(tmp_path / "t").is_new


def test_a_finished_shard_is_not_done_again_before_and_after_the_join(photos, tmp_path):
    encoder = PlainEncoder()
    data, own = open_dataset(photos), extractor(tmp_path / "c", encoder)
    first = write_shard(tmp_path / "t", data, own, Shard(1, 2))
    before = first.file.read_bytes(), first.file.stat().st_mtime_ns, encoder.encoded
    again = write_shard(tmp_path / "t", data, own, Shard(1, 2))
    assert (first.is_new, again.is_new) == (True, False)
    assert (first.file.read_bytes(), first.file.stat().st_mtime_ns, encoder.encoded) == before
    write_shard(tmp_path / "t", data, own, Shard(0, 2))
    assert join_shards(tmp_path / "t").is_new
    assert not join_shards(tmp_path / "t").is_new
    assert not write_shard(tmp_path / "t", data, own, Shard(0, 2)).is_new
    assert [path.name for path in (tmp_path / "t").iterdir()] == [TABLE_FILE]


def test_a_shard_embeds_its_own_photos_only(photos, tmp_path):
    encoder = PlainEncoder()
    written = write_shard(tmp_path / "t", open_dataset(photos), extractor(tmp_path / "c", encoder), Shard(0, 4))
    assert encoder.encoded == written.rows == 5


# Misfits.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: {"shard": Shard(0, 5)}, "shards 5 (was 4)"),
        (lambda p: {"tta": "flip"}, "tta flip (was none)"),
        (lambda p: {"decode": "fast"}, "decode fast (was exact)"),
        (lambda p: {"fingerprint": "another"}, "model another (was plain-encoder)"),
        (lambda p: write_photo(p / "class 0" / "new.bmp", 3) and {}, "rows 24 (was 23)"),
        (lambda p: (p / "class 0" / "00.bmp").rename(p / "class 0" / "a.bmp") and {}, "data"),
    ],
)
def test_shards_of_another_table_are_refused(photos, tmp_path, change, said):
    list(run(photos, tmp_path / "t", Shard(1, 4)))
    changed = change(photos)
    shard, encoder = changed.pop("shard", Shard(0, 4)), PlainEncoder()
    encoder.fingerprint = changed.pop("fingerprint", encoder.fingerprint)
    with pytest.raises(ConfigError, match="was begun with other settings") as error:
        write_shard(tmp_path / "t", open_dataset(photos), extractor(tmp_path / "c", encoder, **changed), shard)
    assert said in str(error.value)
    assert len(list((tmp_path / "t" / "shards").iterdir())) == 1


def test_other_work_in_the_folder_is_refused(photos, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already holds files"):
        list(run(photos, tmp_path / "t", Shard(0, 4)))
    local_table(photos, tmp_path / "local")
    with pytest.raises(ConfigError, match="holds a table that was not made of shards"):
        list(run(photos, tmp_path / "local", Shard(0, 4)))


def test_a_table_of_embeddings_has_no_photos_to_embed(photos, tmp_path):
    local_table(photos, tmp_path / "local")
    with pytest.raises(DataError, match="is a table of embeddings already"):
        list(run(tmp_path / "local", tmp_path / "t", Shard(0, 4)))


@pytest.mark.parametrize(
    ("gone", "said"),
    [([2], "lacks shard 2 of 4"), ([0, 3], "lacks shards 0, 3 of 4"), ([0, 1, 2], "shards 0, 1, 2 of 4")],
)
def test_missing_shards_are_named_and_nothing_is_changed(photos, tmp_path, gone, said):
    list(run(photos, tmp_path / "t", *(shard for shard in all_of(4) if shard.index not in gone)))
    with pytest.raises(DataError, match=said) as error:
        join_shards(tmp_path / "t")
    assert f"--shard {gone[0]}/4" in str(error.value)
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["shards"]
    with pytest.raises(DataError, match="holds shards that are not joined; run flip embed --join"):
        open_dataset(tmp_path / "t")
    list(run(photos, tmp_path / "t", *(Shard(i, 4) for i in gone)))
    assert join_shards(tmp_path / "t").rows == N


def cut(file):
    file.write_bytes(file.read_bytes()[:-40])


def flip_bit(file):
    """Change one bit of an embedding, which only a check sum tells."""
    content = bytearray(file.read_bytes())
    half = np.asarray(pq.read_table(file)["embedding"][1].as_py(), np.float16).tobytes()
    content[content.index(half)] ^= 1
    file.write_bytes(content)


def drop_row(file):
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file, use_dictionary=False)


def double_row(file):
    table = pq.read_table(file)
    pq.write_table(table.take([0, 0, *range(2, len(table))]), file, use_dictionary=False)


def empty(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip_bit, drop_row, double_row, empty])
def test_a_damaged_part_is_named_and_embedded_again(photos, tmp_path, damage):
    list(run(photos, tmp_path / "t", *all_of(4)))
    damage(tmp_path / "t" / "shards" / "shard-00001-of-00004.parquet")
    with pytest.raises(DataError, match="shard-00001-of-00004.parquet .*run shard 1/4 again"):
        join_shards(tmp_path / "t")
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["shards"]
    assert next(run(photos, tmp_path / "t", Shard(1, 4))).is_new
    assert pq.read_table(join_shards(tmp_path / "t").files[0]).equals(local_table(photos, tmp_path / "local"))


def test_parts_of_two_tables_and_copies_are_refused(photos, tmp_path):
    list(run(photos, tmp_path / "t", *all_of(2)))
    list(run(photos, tmp_path / "other", *all_of(3)))
    shards = tmp_path / "t" / "shards"
    shutil.copy(tmp_path / "other" / "shards" / "shard-00000-of-00003.parquet", shards)
    with pytest.raises(DataError, match=r"is of another table than .*\(shards 3, not 2\); remove the wrong one"):
        join_shards(tmp_path / "t")
    (shards / "shard-00000-of-00003.parquet").unlink()
    shutil.copy(shards / "shard-00000-of-00002.parquet", shards / "shard-00000-of-00002 (copy).parquet")
    with pytest.raises(DataError, match="has shard 0/2 twice"):
        join_shards(tmp_path / "t")


def test_what_lies_beside_the_parts_is_not_taken_into_the_table(photos, tmp_path):
    list(run(photos, tmp_path / "t", *all_of(2)))
    shutil.copy(tmp_path / "t" / "shards" / "shard-00000-of-00002.parquet", tmp_path / "t" / "x.parquet")
    with pytest.raises(ConfigError, match="x.parquet would be read as part of the table"):
        join_shards(tmp_path / "t")


def test_a_folder_without_shards_is_not_joined(tmp_path, photos):
    for folder in (tmp_path / "nothing", photos, local_table(photos, tmp_path / "local") and tmp_path / "local"):
        with pytest.raises(ConfigError, match="holds no shards; write them with flip embed -o"):
            join_shards(folder)


def test_a_join_that_was_killed_is_done_again(photos, tmp_path, monkeypatch):
    list(run(photos, tmp_path / "t", *all_of(4)))
    with monkeypatch.context() as patched:
        patched.setattr(joining, "remove_folder", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            join_shards(tmp_path / "t")
    assert {path.name for path in (tmp_path / "t").iterdir()} == {"shards", TABLE_FILE}
    with pytest.raises(DataError, match="not joined"):
        open_dataset(tmp_path / "t")
    assert join_shards(tmp_path / "t").is_new
    assert pq.read_table(tmp_path / "t").equals(local_table(photos, tmp_path / "local"))


# Processes.


def start(photos, folder, *shards, seconds=0.05):
    """Start shards at the same moment, each with a cache of its own, as on machines of their own."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = []
    for shard in shards:
        given = [str(photos), str(folder), str(folder.parent / f"cache {shard.index}"), str(seconds), str(shard)]
        processes.append(
            subprocess.Popen([sys.executable, "-c", PROGRAM, *given], cwd=ROOT, env=dict(os.environ), **pipes)
        )
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return processes


def finish(process):
    """Wait for a shard, and return how many photos it embedded."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return int(out)


def test_shards_may_begin_at_the_same_moment(photos, tmp_path):
    assert sum(map(finish, start(photos, tmp_path / "t", *all_of(4)))) == N
    assert pq.read_table(join_shards(tmp_path / "t").files[0]).equals(local_table(photos, tmp_path / "local"))


@pytest.mark.parametrize("after", [0.2, 0.6, 1.2])
def test_a_killed_shard_leaves_nothing_that_counts_and_is_done_again(photos, tmp_path, after):
    (killed,) = start(photos, tmp_path / "t", Shard(0, 2), seconds=0.5)
    time.sleep(after)
    killed.kill()
    killed.communicate()
    others = start(photos, tmp_path / "t", Shard(1, 2), seconds=0.0)
    assert finish(others[0]) == 12
    assert [path.name for path in tmp_path.glob("t/shards/[!.]*")] == ["shard-00001-of-00002.parquet"]
    with pytest.raises(DataError, match="lacks shard 0 of 2"):
        join_shards(tmp_path / "t")
    assert finish(start(photos, tmp_path / "t", Shard(0, 2), seconds=0.0)[0]) <= 11
    joined = join_shards(tmp_path / "t")
    assert pq.read_table(joined.files[0]).equals(local_table(photos, tmp_path / "local"))
    assert [path.name for path in (tmp_path / "t").iterdir()] == [TABLE_FILE], "no temporary file either"
