"""All benchmarks of speed in one run: JSON to a file, tables for docs/performance.md to stdout.

    python -m tests.bench.bench_all --model MODEL --data FOLDER [-o bench.json] [--only start,texts]

About half an hour on two idle cores. Each row says how busy the machine was; ratios are of work that took turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import bench_decode, bench_embed, bench_heads_peers, bench_knn, bench_start, bench_texts
from tests.bench.processes import load

#: Packages that are compared with where they are installed.
PEERS = ("clip_retrieval", "sklearn", "faiss", "open_clip", "simplejpeg", "cv2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="A folder with open_clip_config.json.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--only", default="start,texts,decode,embed,knn,heads")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    found: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, Python {platform.python_version()}",
        "absent": [name for name in PEERS if importlib.util.find_spec(name) is None],
    }
    for name, part in parts(options).items():
        if name in options.only.split(","):
            print(f"{name}, load {load()}", file=sys.stderr, flush=True)
            start = time.perf_counter()
            found[name] = part()
            found[f"{name}_took_s"] = round(time.perf_counter() - start)
            options.output.write_text(json.dumps(found, indent=1))
            print(f"\n## {name}\n\n{markdown(found[name])}", flush=True)
    print(f"\nNot installed: {', '.join(found['absent']) or 'none'}")


def parts(options: Namespace) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """Return the benchmarks by name."""
    model, data = options.model, options.data
    return {
        "start": lambda: bench_start.measure(model, data),
        "texts": bench_texts.measure,
        "decode": lambda: bench_decode.measure(model, data, 24, 6, [2, 12, 48]),
        "embed": lambda: [
            bench_embed.measure(model, data, precision="fp32"),
            bench_embed.measure(model, data, precision="bf16"),
            bench_embed.measure(model, data, photos=64, precision="bf16", megapixels=12),
        ],
        "knn": lambda: _knn(options.rows),
        "heads": bench_heads_peers.measure,
    }


def _knn(rows: list[int]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return bench_knn.measure(Namespace(rows=rows, queries=2000, whole_only=False), Path(folder))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows as a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    main()
