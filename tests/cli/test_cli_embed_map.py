"""``flip embed --map``."""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from tests.cli.conftest import one_line


def test_the_command_writes_the_columns_that_embedding_atlas_takes(flip, squares, tmp_path):
    result = flip("embed", "--data", squares, "--map", "-o", "table")
    assert result.exit_code == 0, result.output
    assert "embedding-atlas table/embeddings.parquet --x x --y y --neighbors neighbors" in result.stderr
    table = pq.read_table(tmp_path / "table" / "embeddings.parquet")
    row = table.slice(5, 1).to_pylist()[0]
    assert {"x", "y", "neighbors", "predicted", "score"} <= set(row)
    assert set(row["neighbors"]) == {"ids", "distances"}
    assert 5 not in row["neighbors"]["ids"]
    assert max(row["neighbors"]["ids"]) < len(table)
    assert row["predicted"] == row["label"], "coloured squares are easy"
    assert 0 < row["score"] <= 1
    assert json.loads(flip("knn", "--data", "table", "-k", 3).stdout)["n"] == 24


def test_a_map_needs_a_table(flip, squares):
    assert "pass -o with a folder too" in one_line(flip("embed", "--data", squares, "--map"), 2)
