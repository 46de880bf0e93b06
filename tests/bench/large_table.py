"""A table of embeddings as large as one likes: clusters of synthetic rows, as ``flip embed -o`` would write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flip.arrays import FloatArray

CLASSES, WIDTH = 200, 512

#: Rows lie near a space of fewer dimensions, as embeddings of photos do.
_INNER = 64


def clustered(n: int, seed: int, classes: int = CLASSES, width: int = WIDTH) -> tuple[FloatArray, np.ndarray]:
    """Return n unit rows (n, width) and their labels (n,); the clusters are the same for every seed and overlap."""
    shared = np.random.default_rng(99)
    basis = shared.normal(0, width**-0.5, (_INNER, width)).astype(np.float32)
    centres = shared.normal(0, 1, (classes, _INNER)).astype(np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    rows = np.empty((n, width), np.float32)
    for start in range(0, n, 1 << 15):
        here = slice(start, start + (1 << 15))
        inner = centres[labels[here]] + rng.standard_normal((len(labels[here]), _INNER), dtype=np.float32)
        block = inner @ basis + 0.02 * rng.standard_normal((len(inner), width), dtype=np.float32)
        rows[here] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows, labels


def write_large_table(folder: Path, train: int, test: int) -> Path:
    """Write ``embeddings.parquet`` with training and test rows, block by block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    names = [f"class {c:03}" for c in range(CLASSES)]
    about = {"fingerprint": "synthetic", "model": "synthetic", "classnames": names, "raw_names": names}
    about |= {"root": str(folder), "layout": "manifest", "precision": "fp32"}
    writer = None
    for split, n in (("train", train), ("test", test)):
        for start in range(0, n, 50_000):
            m = min(50_000, n - start)
            rows, labels = clustered(m, seed=start + (split == "test"))
            values = pa.array(rows.astype(np.float16).reshape(-1))
            table = pa.table(
                {
                    "path": [f"{split}/{names[c]}/{start + i:07}.jpg" for i, c in enumerate(labels)],
                    "label": [names[c] for c in labels],
                    "split": [split] * m,
                    "captions": pa.array([[]] * m, pa.list_(pa.string())),
                    "embedding": pa.FixedSizeListArray.from_arrays(values, WIDTH),
                    "error": pa.array([None] * m, pa.string()),
                }
            ).replace_schema_metadata({b"flip": json.dumps(about).encode()})
            if writer is None:
                file = folder / "embeddings.parquet"
                packed = {name: "NONE" if name == "embedding" else "zstd" for name in table.column_names}
                packed["embedding.list.element"] = packed.pop("embedding")
                writer = pq.ParquetWriter(
                    file, table.schema, compression=packed, use_dictionary=False, write_page_checksum=True
                )
            writer.write_table(table)
    assert writer is not None
    writer.close()
    return folder
