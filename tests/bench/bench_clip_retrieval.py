"""clip-retrieval's own index and filter, and autofaiss, on what ``flip embed --layout-out clip-retrieval`` wrote.

    python -m tests.bench.bench_clip_retrieval --python VENV/bin/python --model MODEL --data FOLDER

VENV has autofaiss and clip-retrieval, whose requirements are not flip's (``pip install autofaiss "pyarrow<20"``, and
clip-retrieval with ``--no-deps`` beside what it then asks for). clip-retrieval's filter fetches OpenAI's ViT-B/32 to
embed the query; here MODEL takes its place. Prints JSON with the versions; fails where a photo is not found by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.bench.processes import flip_command, measured

#: Runs clip-retrieval's filter with another model: index folder, output folder, model, photo, number of results.
FILTER = """
import sys
import clip, open_clip
from clip_retrieval.clip_filter import clip_filter
index, out, model, photo, n = sys.argv[1:]
loaded, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{model}")
clip.load = lambda *_, **__: (loaded.eval(), preprocess)
clip_filter(photo, out, index, num_results=int(n))
"""

VERSIONS = """
import json
from importlib.metadata import version
print(json.dumps({name: version(name) for name in ("autofaiss", "clip-retrieval", "faiss-cpu", "pyarrow", "numpy")}))
"""

LIMITS = ("--max_index_memory_usage", "100M", "--current_memory_available", "1G")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--model", required=True, help="A folder with open_clip_config.json.")
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(Path(name), options.python, options.model, options.data), indent=2))


def measure(root: Path, python: Path, model: str, data: str) -> dict[str, object]:
    given = ["--data", data, "--model", model, "--precision", "fp32"]
    measured(flip_command("embed", *given, "-o", root / "cr", "--layout-out", "clip-retrieval"))
    measured(flip_command("embed", *given, "-o", root / "flip"))
    rows = np.load(root / "cr" / "img_emb" / "img_emb_0.npy")
    theirs = python.parent
    infos = root / "autofaiss.json"
    index = ["--index_path", root / "autofaiss.index", "--index_infos_path", infos]
    call(theirs / "autofaiss", "build_index", "--embeddings", root / "cr" / "img_emb", *index, *LIMITS)
    call(
        theirs / "clip-retrieval",
        "index",
        "--embeddings_folder",
        root / "cr",
        "--index_folder",
        root / "index",
        *LIMITS,
    )
    return {
        "versions": json.loads(call(python, "-c", VERSIONS)),
        "embeddings": list(rows.shape),
        "autofaiss": {
            key: json.loads(infos.read_text())[key] for key in ("index_key", "nb vectors", "vectors dimension")
        },
        "photos of which clip-retrieval's filter finds the photo itself first": found_by_filter(root, python, model),
    }


def found_by_filter(root: Path, python: Path, model: str, queries: int = 5) -> str:
    paths = pq.read_table(root / "index" / "metadata" / "metadata_0.parquet")["image_path"].to_pylist()
    chosen = [path for path in paths if path.endswith((".jpg", ".png"))][:: len(paths) // queries][:queries]
    for i, path in enumerate(chosen):
        out = root / f"found{i}"
        call(python, "-c", FILTER, root / "index", out, model, path, 1)
        assert [file.name for file in out.iterdir()] == [Path(path).name], path
    return f"{len(chosen)} of {len(chosen)}"


def call(*command: object) -> str:
    """Run one of their programs, without flip's own path to packages."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} {command[1]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
