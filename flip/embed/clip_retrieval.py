"""Embeddings in the folders that clip-retrieval and autofaiss read: arrays, and Parquet with a row for each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.data.dataset import Dataset
from flip.data.text import column_text, utf8
from flip.errors import DataError
from flip.features import Features
from flip.files import written_aside

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

#: Rows of one file.
ROWS_A_FILE = 1_000_000


def write_clip_retrieval(
    folder: Path, features: Features, dataset: Dataset, *, rows_a_file: int = ROWS_A_FILE
) -> list[Path]:
    """Write ``img_emb/img_emb_0.npy`` … (float16, unit rows) and ``metadata/metadata_0.parquet`` … beside each other.

    The metadata are ``image_path`` (the file), ``label``, ``split``, and ``caption`` (the first) where there is any.
    Photos that could not be read have no row, and are logged.

    Parameters
    ----------
    folder : Path
    features : Features
        Of every record, in their order.
    dataset : Dataset
    rows_a_file : int

    Returns
    -------
    list of Path
        The arrays.

    Raises
    ------
    DataError
        If no photo could be read.
    ConfigError
        If the folder cannot be written.
    """
    rows = np.flatnonzero([error is None for error in features.errors])
    if not len(rows):
        raise DataError(f"none of the {len(features)} photos has an embedding; nothing is written")
    if len(rows) < len(features):
        log.warning("%d photos without an embedding are left out of %s", len(features) - len(rows), folder)
    begins = range(0, len(rows), rows_a_file)
    # Its readers sort files by name.
    digits = len(str(len(begins) - 1))
    arrays = []
    for i, begin in enumerate(begins):
        some = rows[begin : begin + rows_a_file]
        arrays.append(_write_array(folder / "img_emb" / f"img_emb_{i:0{digits}}.npy", features.image_features[some]))
        _write_metadata(folder / "metadata" / f"metadata_{i:0{digits}}.parquet", _metadata(features, dataset, some))
    return arrays


def _write_array(file: Path, rows: FloatArray) -> Path:
    with written_aside(file) as aside, aside.open("wb") as stream:
        np.save(stream, rows.astype(np.float16))
    return file


def _write_metadata(file: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    with written_aside(file, kind="table") as aside:
        pq.write_table(table, aside)


def _metadata(features: Features, dataset: Dataset, rows: IntArray) -> pa.Table:
    import pyarrow as pa

    # The paths of a table that another program wrote are whatever it called its photos.
    known = dataset.vectors is None
    records = [dataset.records[i] for i in rows]
    columns = {
        "image_path": [column_text(str(dataset.file(r).absolute()) if known else r.path) for r in records],
        "label": [column_text(features.raw_names[r.label]) for r in records],
        "split": [r.split for r in records],
    }
    if any(features.captions):
        columns["caption"] = [utf8(r.captions[0]) if r.captions else None for r in records]
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
