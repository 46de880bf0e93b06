"""The joined table that ``flip embed -o`` writes: photos, labels and embeddings in Parquet, for any reader."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flip.arrays import FloatArray, IntArray
from flip.data.dataset import Dataset
from flip.data.layouts.embeddings import read_about, sealed_metadata
from flip.data.parquet import parquet_files
from flip.embed.table_rows import RowBatch, collect_rows, read_width, table_batches
from flip.embed.table_writer import about_table, table_columns, table_schema, table_writer, write_row_group
from flip.embed.vector_rows import vector_batches
from flip.errors import DataError, FeatureMismatchError
from flip.features import Features
from flip.files import claim_folder, written_aside

if TYPE_CHECKING:
    import pyarrow as pa

    from flip.clip.encoder import Encoder
    from flip.data.vector_files import VectorTable

TABLE_FILE = "embeddings.parquet"

#: Begin of the fingerprint of embeddings of which nobody says which model made them; their width follows.
UNKNOWN_MODEL = "unknown-"


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
    import pyarrow as pa

    claim_folder(folder, overwrite=overwrite)
    columns = {**table_columns(features), **(map_columns.to_arrow() if map_columns else {})}
    about = about_table(dataset, features.fingerprint, model, precision)
    table = pa.table(columns).replace_schema_metadata(sealed_metadata(about))
    with written_aside(folder / TABLE_FILE, kind="table") as aside, table_writer(aside, table.schema) as writer:
        writer.write_table(table)
    return folder / TABLE_FILE


def write_table_row_groups(
    folder: Path, groups: Iterable[Features], dataset: Dataset, model: str, *, precision: str = ""
) -> Path:
    """Write a table as :func:`write_table` does, of features that come a row group at a time, into a claimed folder."""
    groups = iter(groups)
    first = next(groups)
    about = about_table(dataset, first.fingerprint, model, precision)
    schema = table_schema(first.image_features.shape[1], about)
    with written_aside(folder / TABLE_FILE, kind="table") as aside, table_writer(aside, schema) as writer:
        for features in chain([first], groups):
            write_row_group(writer, features)
    return folder / TABLE_FILE


def table_metadata(dataset: Dataset) -> dict[str, object]:
    """Return the metadata of an ``embeddings`` dataset's table: fingerprint, model, precision, class names, root.

    Of a table that does not say which model made it the fingerprint begins with ``UNKNOWN_MODEL``.
    """
    if dataset.vectors is not None:
        return _unknown(dataset, dataset.vectors)
    about = read_about(_files(dataset)[0])
    if about is None or "fingerprint" not in about:
        raise DataError(f"{dataset.embeddings} was not written by flip embed -o; write it again")
    return about


def _unknown(dataset: Dataset, vectors: VectorTable) -> dict[str, object]:
    assert dataset.embeddings is not None
    column = vectors.files[0].column
    name = f"embeddings of {dataset.embeddings.name}" + (f":{column}" if column else "")
    return {"fingerprint": f"{UNKNOWN_MODEL}{vectors.width}", "model": name, "precision": ""}


def is_of_unknown_model(dataset: Dataset) -> bool:
    """Return whether a dataset is a table of embeddings that does not say which model made it."""
    return dataset.embeddings is not None and str(table_metadata(dataset)["fingerprint"]).startswith(UNKNOWN_MODEL)


def table_width(dataset: Dataset) -> int:
    """Return the width of the embeddings of an ``embeddings`` dataset."""
    return dataset.vectors.width if dataset.vectors is not None else read_width(_files(dataset)[0])


def read_table_features(dataset: Dataset, model: Encoder | None = None) -> Features:
    """Return the features of a dataset that was read from a table of embeddings; the photos need not exist.

    Parameters
    ----------
    dataset : Dataset
    model : Encoder, optional
        The model that must have made them; of a table that does not say which did, one of the same width may have.

    Raises
    ------
    DataError
        If it is damaged, has a path twice, or flip wrote it and rows have neither a unit embedding nor an error.
    FeatureMismatchError
        If another model made the table.
    """
    embeddings, errors = collect_rows(_row_batches(dataset), len(dataset), table_width(dataset))
    return make_features(dataset, embeddings, errors, _fingerprint_of(dataset, model))


def table_row_groups(dataset: Dataset, model: Encoder | None = None) -> Iterator[Features]:
    """Yield the features of a dataset that was read from a table of embeddings, some rows at a time, in its order.

    Parameters and errors are those of :func:`read_table_features`.
    """
    fingerprint = _fingerprint_of(dataset, model)
    for batch in _row_batches(dataset):
        yield make_features(dataset.take(batch.photos.tolist()), batch.embeddings, batch.errors, fingerprint)


def _row_batches(dataset: Dataset) -> Iterator[RowBatch]:
    paths = [record.path for record in dataset.records]
    if dataset.vectors is not None:
        return vector_batches(dataset.vectors, paths)
    return table_batches(_files(dataset), paths)


def _fingerprint_of(dataset: Dataset, model: Encoder | None) -> str:
    """Return the fingerprint of the model that made a table, or of one that can have made it."""
    about = table_metadata(dataset)
    if model is None:
        return str(about["fingerprint"])
    if is_of_unknown_model(dataset):
        if table_width(dataset) != model.dim:
            raise FeatureMismatchError(
                f"{dataset.embeddings} holds embeddings of {table_width(dataset)} numbers, and {model.name} makes "
                f"{model.dim}; pass --model with the one that made them, or leave it out"
            )
    elif about["fingerprint"] != model.fingerprint:
        raise FeatureMismatchError(
            f"{dataset.embeddings} was made by {about['model']} ({about['fingerprint']}), "
            f"not by {model.name} ({model.fingerprint}); "
            f"pass --model {about['model']}, or embed the photos again"
        )
    return model.fingerprint


def table_files(folder: Path) -> list[Path]:
    """Return the files of the table that ``flip embed`` wrote into a folder, by name: one, or ``embeddings-00000`` …"""
    if (folder / TABLE_FILE).is_file():
        return [folder / TABLE_FILE]
    return [file for file in parquet_files(folder) if is_table_name(file.name)]


def is_table_name(name: str) -> bool:
    """Return whether a file of this name belongs to a table that ``flip embed`` wrote."""
    return re.fullmatch(r"embeddings(-\d{5,})?\.parquet", name) is not None


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
