"""Readers of tars of photos, and of embeddings that flip did not write."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flip.data.images import decode_image
from flip.data.open import open_dataset
from flip.embed.table import read_table_features
from flip.errors import DataError
from tests.fuzz.campaign import Reader
from tests.fuzz.readers_data import CLASSES, opened, picture, summary, text


def make_tar(folder: Path) -> None:
    """A shard of WebDataset: photos with classes, captions and notes."""
    with tarfile.open(folder / "train-0000.tar", "w") as tar:
        for i in range(6):
            content = io.BytesIO()
            picture(i).save(content, "JPEG")
            notes = {"split": "train" if i % 3 else "test", "width": 24}
            parts = {"jpg": content.getvalue(), "cls": CLASSES[i % 3].encode(), "txt": f"a photo {i}".encode()}
            for suffix, data in {**parts, "json": json.dumps(notes).encode()}.items():
                info = tarfile.TarInfo(f"wild/{i:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def read_tar(folder: Path) -> Any:
    """Open it and decode every photo: a size, or an error for each."""
    dataset = open_dataset(folder / "train-0000.tar", cache=folder.parent / "cache")
    seen: list[object] = []
    for record in dataset.records:
        try:
            seen.append(decode_image(dataset.file(record)).size)
        except DataError as error:
            seen.append(str(error))
    return {**summary(dataset), "photos": seen}


def vectors() -> np.ndarray:
    """Unit rows (24, 16), classes apart from each other."""
    rng = np.random.default_rng(0)
    made = np.eye(16)[np.arange(24) % 3] + 0.3 * rng.normal(size=(24, 16))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def columns() -> dict[str, list[str]]:
    """Paths, classes and splits of those rows."""
    return {
        "path": [f"{i}.jpg" for i in range(24)],
        "label": [CLASSES[i % 3] for i in range(24)],
        "split": ["train" if i % 4 else "test" for i in range(24)],
    }


def make_vector_column(folder: Path) -> None:
    """A Parquet file with a column of lists, as pandas writes it."""
    table = pa.table({**columns(), "vector": pa.array([row.tolist() for row in vectors()], pa.list_(pa.float64()))})
    pq.write_table(table, folder / "table.parquet", write_page_checksum=True)


def make_array(folder: Path) -> None:
    """A NumPy array with a csv file beside it."""
    np.save(folder / "table.npy", vectors())
    rows = zip(*columns().values(), strict=True)
    text(folder / "table.csv", "path,label,split\n" + "".join(",".join(row) + "\n" for row in rows))


def make_clip_retrieval(folder: Path) -> None:
    """A folder of clip-retrieval."""
    (folder / "img_emb").mkdir()
    (folder / "metadata").mkdir()
    named = {"image_path" if name == "path" else name: column for name, column in columns().items()}
    for part in range(2):
        rows = slice(12 * part, 12 * part + 12)
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", vectors()[rows].astype(np.float16))
        table = pa.table({name: column[rows] for name, column in named.items()})
        pq.write_table(table, folder / "metadata" / f"metadata_{part}.parquet")


def read_vectors_of(name: str = "") -> Any:
    """Return a reader of rows and features."""

    def read(folder: Path) -> Any:
        dataset = open_dataset(folder / name if name else folder, cache=folder.parent / "cache")
        found = read_table_features(dataset)
        assert np.isfinite(found.image_features).all()
        return {**summary(dataset), "errors": list(found.errors), "vectors": found.image_features.tobytes()}

    return read


READERS = (
    Reader("webdataset", make_tar, read_tar, cost=2),
    Reader("webdataset listing", make_tar, opened("train-0000.tar"), places=1),
    Reader("vector column", make_vector_column, read_vectors_of("table.parquet")),
    Reader("vector array", make_array, read_vectors_of("table.npy")),
    Reader("clip-retrieval", make_clip_retrieval, read_vectors_of()),
)
