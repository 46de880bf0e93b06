import subprocess
import sys

import numpy as np
import pytest

from flip.embed.cache import EmbeddingCache
from flip.embed.keys import FileKey
from flip.embed.parts import write_part
from flip.embed.rows import NewRow
from flip.embed.text_cache import TextCache


def key(name, size=10, mtime=5):
    return FileKey(f"/photos/{name}", size, mtime)


def unit(*values):
    row = np.asarray(values, np.float32)
    return row / np.linalg.norm(row)


def test_what_was_added_is_found_and_nothing_else(tmp_path):
    with EmbeddingCache(tmp_path, "f1", 3) as cache:
        cache.add(NewRow(key("a"), unit(1, 2, 2)))
        cache.add(NewRow(key("broken"), None, "truncated"))
    found = EmbeddingCache(tmp_path, "f1", 3).look_up([key("new"), key("broken"), key("a"), key("a", size=11)])
    assert found.known.tolist() == [False, True, True, False]
    assert found.errors == [None, "truncated", None, None]
    assert found.embeddings[2] == pytest.approx(unit(1, 2, 2), abs=1e-3)
    assert np.linalg.norm(found.embeddings[2]) == pytest.approx(1.0, abs=1e-6)
    assert not found.embeddings[[0, 1, 3]].any()


def test_a_changed_file_is_unknown_until_it_is_added_again(tmp_path):
    with EmbeddingCache(tmp_path, "f1", 2) as cache:
        cache.add(NewRow(key("a", mtime=1), unit(1, 0)))
        cache.flush()
        assert not cache.look_up([key("a", mtime=2)]).known[0]
        cache.add(NewRow(key("a", mtime=2), unit(0, 1)))
    assert cache.look_up([key("a", mtime=2)]).embeddings[0] == pytest.approx([0, 1])
    assert cache.look_up([key("a", mtime=1)]).embeddings[0] == pytest.approx([1, 0])


def test_the_same_file_asked_for_twice_has_two_rows(tmp_path):
    with EmbeddingCache(tmp_path, "f1", 2) as cache:
        cache.add(NewRow(key("a"), unit(1, 0)))
    found = cache.look_up([key("a"), key("b"), key("a")])
    assert found.known.tolist() == [True, False, True]
    assert found.embeddings[2] == pytest.approx([1, 0])


def test_a_part_of_another_model_is_set_aside_by_name(tmp_path, caplog):
    with EmbeddingCache(tmp_path, "f1", 2) as cache:
        cache.add(NewRow(key("a"), unit(1, 0)))
    part = next((tmp_path / "f1" / "images").glob("*.parquet"))
    other = EmbeddingCache(tmp_path, "f2", 2)
    part.rename(tmp_path / "f2" / "images" / part.name)
    assert not other.look_up([key("a")]).known.any()
    assert "it was made by another model, f1, not f2" in caplog.text


def test_two_processes_add_at_once_without_harm(tmp_path):
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\n"
        "from flip.embed.cache import EmbeddingCache\nfrom flip.embed.keys import FileKey\n"
        "from flip.embed.rows import NewRow\n"
        "with EmbeddingCache(Path(sys.argv[1]), 'f1', 4) as c:\n"
        "    for i in range(50):\n"
        "        c.add(NewRow(FileKey(f'/p/{sys.argv[2]}-{i}', 1, 1), np.full(4, 0.5, np.float32)))\n"
        "        c.flush()\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [process.wait() for process in started] == [0, 0]
    keys = [FileKey(f"/p/{name}-{i}", 1, 1) for name in "ab" for i in range(50)]
    assert EmbeddingCache(tmp_path, "f1", 4).look_up(keys).known.all()


def test_a_part_that_was_being_written_when_the_process_died_is_not_read(tmp_path):
    with EmbeddingCache(tmp_path, "f1", 2) as cache:
        cache.add(NewRow(key("a"), unit(1, 0)))
    (tmp_path / "f1" / "images" / ".123-abc.tmp").write_bytes(b"half a part")
    assert cache.look_up([key("a")]).known.all()


def test_texts_are_found_by_content_in_full_precision(tmp_path):
    cache = TextCache(tmp_path, "f1", 2)
    cache.add(["a bird", 'naïve\nquote"'], np.stack([unit(1, 3), unit(2, 1)]))
    embeddings, known = cache.look_up(['naïve\nquote"', "another", "a bird"])
    assert known.tolist() == [True, False, True]
    assert (embeddings[2] == unit(1, 3)).all(), "what a second run reads is what the first one had"


def test_parquet_parts_are_readable_by_anyone(tmp_path):
    import pyarrow.parquet as pq

    with EmbeddingCache(tmp_path, "f1", 2) as cache:
        cache.add(NewRow(key("a"), unit(1, 0)))
        cache.add(NewRow(key("b"), None, "broken"))
    table = pq.read_table(next((tmp_path / "f1" / "images").glob("*.parquet")))
    assert table.column_names == [
        *("path", "size", "mtime_ns", "ctime_ns", "content", "decoding", "embedding", "error", "made_by", "check")
    ]
    column = table.schema.field("embedding").type
    assert (str(column.value_type), column.list_size) == ("halffloat", 2)
    assert table["embedding"].to_pylist()[1] is None
    assert len(list((tmp_path / "f1" / "images").iterdir())) == 1


def test_a_full_disk_is_one_line_and_leaves_no_half_part(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from flip.errors import ConfigError

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_part(tmp_path, pa.table({"x": [1]}), "f1")
    assert list(tmp_path.iterdir()) == []
