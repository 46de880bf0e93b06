"""The joined table that ``flip embed -o`` writes: photos, labels and embeddings in Parquet, for any reader."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.data.dataset import Dataset
from flip.data.layouts.embeddings import METADATA_KEY
from flip.embed.cache import embedding_column, embedding_matrix
from flip.errors import DataError, FeatureMismatchError
from flip.features import Features
from flip.files import claim_folder, written_aside

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_FILE = "embeddings.parquet"

#: Rows that are read together.
_BATCH = 16_384


class MapColumns(NamedTuple):
    """A map of n photos: the columns that Apple's Embedding Atlas takes, and a prediction.

    ``places`` (n, 2), NaN for unreadable photos; the ``nearest`` other rows (n, k), −1 for none, with their cosine
    ``distances`` (n, k); the label ``predicted`` for each and its probability ``scores`` (n,).
    """

    places: FloatArray
    nearest: IntArray
    distances: FloatArray
    predicted: Sequence[str | None]
    scores: FloatArray

    def to_arrow(self) -> dict[str, pa.Array]:
        """Return ``x``, ``y``, ``neighbors`` ({ids, distances}), ``predicted`` and ``score``; null where empty."""
        import pyarrow as pa

        near = [
            None if (ids < 0).all() else {"ids": ids[ids >= 0].tolist(), "distances": distances[ids >= 0].tolist()}
            for ids, distances in zip(self.nearest, self.distances, strict=True)
        ]
        kind = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
        return {
            "x": pa.array(self.places[:, 0], pa.float32(), from_pandas=True),
            "y": pa.array(self.places[:, 1], pa.float32(), from_pandas=True),
            "neighbors": pa.array(near, kind),
            "predicted": pa.array(self.predicted, pa.string()),
            "score": pa.array(self.scores, pa.float32(), from_pandas=True),
        }


def write_table(
    folder: Path,
    features: Features,
    dataset: Dataset,
    model: str,
    *,
    map_columns: MapColumns | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``path``, ``label``, ``split``, ``captions``, ``embedding`` (float16, unit) and ``error``, and a map.

    Raises
    ------
    ConfigError
        If the folder holds something else and ``overwrite`` is false.
    """
    import pyarrow.parquet as pq

    claim_folder(folder, overwrite=overwrite)
    columns = {**_columns(features), **(map_columns.to_arrow() if map_columns else {})}
    table = _table(columns, features, dataset, model)
    with written_aside(folder / TABLE_FILE, kind="table") as aside:
        pq.write_table(table, aside, compression="zstd")
    return folder / TABLE_FILE


def _columns(features: Features) -> dict[str, pa.Array]:
    import pyarrow as pa

    rows = [
        None if error else row.astype(np.float16)
        for row, error in zip(features.image_features, features.errors, strict=True)
    ]
    return {
        "path": pa.array(features.paths, pa.string()),
        "label": pa.array([features.raw_names[c] for c in features.labels], pa.string()),
        "split": pa.array(features.splits, pa.string()),
        "captions": pa.array([list(c) for c in features.captions], pa.list_(pa.string())),
        "embedding": embedding_column(rows, features.image_features.shape[1]),
        "error": pa.array(features.errors, pa.string()),
    }


def _table(columns: dict[str, pa.Array], features: Features, dataset: Dataset, model: str) -> pa.Table:
    """Return the columns as a table whose metadata names the model, the classes and the data."""
    import pyarrow as pa

    about = {
        "fingerprint": features.fingerprint,
        "model": model,
        "classnames": features.classnames,
        "raw_names": features.raw_names,
        "root": str(dataset.root.absolute()),
        "layout": dataset.layout,
    }
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()})


def table_metadata(dataset: Dataset) -> dict[str, object]:
    """Return the metadata of an ``embeddings`` dataset's table: fingerprint, model, class names, root."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(_files(dataset)[0]).metadata or {}
    about = json.loads(metadata.get(METADATA_KEY, b"{}"))
    if "fingerprint" not in about:
        raise DataError(f"{dataset.embeddings} was not written by flip embed -o; write it again")
    return dict(about)


def read_table_features(dataset: Dataset, fingerprint: str | None = None, model: str = "") -> Features:
    """Return the features of a dataset that was read from such a table; the photos need not exist.

    Raises
    ------
    FeatureMismatchError
        If ``fingerprint`` is given and the table was made by another model.
    """
    about = table_metadata(dataset)
    if fingerprint is not None and about["fingerprint"] != fingerprint:
        raise FeatureMismatchError(
            f"{dataset.embeddings} was made by {about['model']} ({about['fingerprint']}), "
            f"not by {model} ({fingerprint}); "
            f"pass --model {about['model']}, or embed the photos again"
        )
    matrix, errors = _read_rows([record.path for record in dataset.records], _files(dataset))
    return make_features(dataset, matrix, errors, str(about["fingerprint"]))


def _read_rows(paths: Sequence[str], files: Sequence[Path]) -> tuple[FloatArray, list[str | None]]:
    """Return the embeddings (n, d) of these photos and their errors, read a batch of rows at a time into one array."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    # A selection of the dataset (one split) holds fewer records than the files have rows.
    columns = [pq.read_table(file, columns=["path"])["path"] for file in files]
    row_of = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    rows = pc.index_in(pa.array(paths, pa.string()), value_set=row_of).to_numpy(zero_copy_only=False)
    order = np.argsort(rows, kind="stable")
    sorted_rows = rows[order]
    width = pq.read_schema(files[0]).field("embedding").type.list_size
    matrix, errors = np.empty((len(paths), width), np.float32), np.full(len(paths), None, object)
    start = 0
    for batch in _batches(files):
        here = slice(*np.searchsorted(sorted_rows, [start, start + len(batch)]))
        targets, own = order[here], sorted_rows[here] - start
        matrix[targets] = embedding_matrix(pa.chunked_array([batch["embedding"]]), width)[own]
        if batch["error"].null_count < len(batch):
            errors[targets] = np.array(batch["error"].to_pylist(), object)[own]
        start += len(batch)
    return matrix, errors.tolist()


def _batches(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    for file in files:
        # Buffered, the column is read as it is decoded, and not all of it at once.
        with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as table:
            yield from table.iter_batches(_BATCH, columns=["embedding", "error"])


def _files(dataset: Dataset) -> list[Path]:
    assert dataset.embeddings is not None
    files = [dataset.embeddings] if dataset.embeddings.is_file() else sorted(dataset.embeddings.glob("*.parquet"))
    if not files:
        raise DataError(f"{dataset.embeddings} holds no .parquet file; write it with flip embed -o")
    return files


def make_features(dataset: Dataset, embeddings: FloatArray, errors: Sequence[str | None], fingerprint: str) -> Features:
    """Join a dataset with its embeddings, float32 (n, d)."""
    return Features(
        image_features=embeddings,
        labels=dataset.labels,
        paths=tuple(r.path for r in dataset.records),
        splits=tuple(r.split for r in dataset.records),
        captions=tuple(r.captions for r in dataset.records),
        errors=tuple(errors),
        classnames=dataset.classnames,
        raw_names=dataset.raw_names,
        fingerprint=fingerprint,
    )
