"""The joined table that ``flip embed -o`` writes: photos, labels and embeddings in Parquet, for any reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.data.dataset import Dataset
from flip.data.layouts.embeddings import read_about, sealed_metadata
from flip.data.parquet import parquet_files
from flip.data.text import column_text, utf8
from flip.embed.table_rows import read_rows
from flip.embed.vectors import embedding_column
from flip.errors import DataError, FeatureMismatchError
from flip.features import Features
from flip.files import claim_folder, written_aside

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_FILE = "embeddings.parquet"


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
    precision: str = "",
) -> Path:
    """Write ``path``, ``label``, ``split``, ``captions``, ``embedding`` (float16, unit) and ``error``, and a map.

    The metadata names the model, the data, and the ``precision`` that the features were made in, where it is given.

    Raises
    ------
    ConfigError
        If the folder holds something else and ``overwrite`` is false.
    """
    import pyarrow.parquet as pq

    claim_folder(folder, overwrite=overwrite)
    columns = {**_columns(features), **(map_columns.to_arrow() if map_columns else {})}
    table = _table(columns, features, dataset, model, precision)
    packed = {name: "zstd" for name in table.column_names if name != "embedding"}
    with written_aside(folder / TABLE_FILE, kind="table") as aside:
        pq.write_table(table, aside, compression=packed, use_dictionary=False, write_page_checksum=True)
    return folder / TABLE_FILE


def _columns(features: Features) -> dict[str, pa.Array]:
    import pyarrow as pa

    rows = [
        None if error else row.astype(np.float16)
        for row, error in zip(features.image_features, features.errors, strict=True)
    ]
    return {
        "path": pa.array([column_text(path) for path in features.paths], pa.string()),
        "label": pa.array([column_text(features.raw_names[c]) for c in features.labels], pa.string()),
        "split": pa.array(features.splits, pa.string()),
        "captions": pa.array([list(map(utf8, c)) for c in features.captions], pa.list_(pa.string())),
        "embedding": embedding_column(rows, features.image_features.shape[1]),
        "error": pa.array(features.errors, pa.string()),
    }


def _table(columns: dict[str, pa.Array], features: Features, dataset: Dataset, model: str, precision: str) -> pa.Table:
    """Return the columns as a table whose metadata names the model, the classes and the data."""
    import pyarrow as pa

    about = {
        "fingerprint": features.fingerprint,
        "model": model,
        "precision": precision,
        "classnames": features.classnames,
        "raw_names": features.raw_names,
        "root": str(dataset.root.absolute()),
        "layout": dataset.layout,
    }
    return pa.table(columns).replace_schema_metadata(sealed_metadata(about))


def table_metadata(dataset: Dataset) -> dict[str, object]:
    """Return the metadata of an ``embeddings`` dataset's table: fingerprint, model, class names, root."""
    about = read_about(_files(dataset)[0])
    if about is None or "fingerprint" not in about:
        raise DataError(f"{dataset.embeddings} was not written by flip embed -o; write it again")
    return about


def read_table_features(dataset: Dataset, fingerprint: str | None = None, model: str = "") -> Features:
    """Return the features of a dataset that was read from such a table; the photos need not exist.

    Raises
    ------
    DataError
        If it is damaged, has a path twice, or rows without a unit embedding and without an error.
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
    found = read_rows(_files(dataset), [record.path for record in dataset.records])
    return make_features(dataset, found.embeddings, found.errors, str(about["fingerprint"]))


def _files(dataset: Dataset) -> list[Path]:
    assert dataset.embeddings is not None
    files = [dataset.embeddings] if dataset.embeddings.is_file() else parquet_files(dataset.embeddings)
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
