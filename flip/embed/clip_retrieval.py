"""Embeddings in the folders that clip-retrieval and autofaiss read: arrays, and Parquet with a row for each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from flip.arrays import FloatArray
from flip.data.dataset import Dataset
from flip.data.text import column_text, path_of_column, utf8
from flip.errors import DataError
from flip.features import Features
from flip.files import written_aside

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

#: Rows of one file.
ROWS_A_FILE = 1_000_000


class _Block(NamedTuple):
    """Some rows: embeddings (b, d), float16, and the metadata of each."""

    embeddings: FloatArray
    metadata: pa.Table

    def part(self, begin: int, end: int | None = None) -> Self:
        length = None if end is None else end - begin
        return self._replace(embeddings=self.embeddings[begin:end], metadata=self.metadata.slice(begin, length))


def write_clip_retrieval(
    folder: Path, groups: Iterable[Features], dataset: Dataset, *, rows_a_file: int = ROWS_A_FILE
) -> list[Path]:
    """Write ``img_emb/img_emb_0.npy`` … (float16, unit rows) and ``metadata/metadata_0.parquet`` … beside each other.

    The metadata are ``image_path`` (the file), ``label``, ``split``, and ``caption`` (the first) where there is any.
    Photos that could not be read have no row, and are logged. Memory holds the rows of one file, 2·d bytes each.

    Parameters
    ----------
    folder : Path
    groups : iterable of Features
        Of all photos, some rows at a time.
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
    arrays, rows = list[Path](), 0
    # Its readers sort files by name.
    digits = len(str((len(dataset) - 1) // rows_a_file))
    is_captioned = any(record.captions for record in dataset.records)
    for blocks in _of_size((_block(features, dataset, is_captioned) for features in groups), rows_a_file):
        number = f"{len(arrays):0{digits}}"
        arrays.append(_write_array(folder / "img_emb" / f"img_emb_{number}.npy", blocks))
        _write_metadata(folder / "metadata" / f"metadata_{number}.parquet", blocks)
        rows += sum(len(block.embeddings) for block in blocks)
    if not arrays:
        raise DataError(f"none of the {len(dataset)} photos has an embedding; nothing is written")
    if rows < len(dataset):
        log.warning("%d photos without an embedding are left out of %s", len(dataset) - rows, folder)
    return arrays


def _of_size(blocks: Iterable[_Block], size: int) -> Iterator[list[_Block]]:
    """Yield blocks that together have ``size`` rows, the last of them fewer."""
    waiting, n = list[_Block](), 0
    for block in blocks:
        left = block
        while n + len(left.embeddings) >= size:
            yield [*waiting, left.part(0, size - n)]
            left, waiting, n = left.part(size - n), [], 0
        waiting.append(left)
        n += len(left.embeddings)
    if n:
        yield waiting


def _write_array(file: Path, blocks: Sequence[_Block]) -> Path:
    shape = sum(len(block.embeddings) for block in blocks), blocks[0].embeddings.shape[1]
    with written_aside(file) as aside, aside.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for block in blocks:
            block.embeddings.tofile(stream)
    return file


def _write_metadata(file: Path, blocks: Sequence[_Block]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with written_aside(file, kind="table") as aside, aside.open("wb") as stream:
        pq.write_table(pa.concat_tables([block.metadata for block in blocks]), stream)


def _block(features: Features, dataset: Dataset, is_captioned: bool) -> _Block:
    """Return the rows of photos that have an embedding."""
    import pyarrow as pa

    rows = [i for i, error in enumerate(features.errors) if error is None]
    # The paths of a table that another program wrote are whatever it called its photos.
    folder = dataset.root.absolute() if dataset.vectors is None else None
    paths = [path_of_column(features.paths[i]) for i in rows]
    columns: dict[str, list[str | None]] = {
        "image_path": [column_text(path if folder is None else str(folder / path)) for path in paths],
        "label": [column_text(features.raw_names[features.labels[i]]) for i in rows],
        "split": [features.splits[i] for i in rows],
    }
    if is_captioned:
        columns["caption"] = [utf8(features.captions[i][0]) if features.captions[i] else None for i in rows]
    metadata = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return _Block(features.image_features[rows].astype(np.float16), metadata)
