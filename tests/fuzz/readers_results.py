"""Readers of what flip itself wrote: caches, tables, heads, runs, generated sets, studies, checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flip.classify.classifier import load_classifier, make_head
from flip.data.dataset import Dataset, Record
from flip.data.open import open_dataset
from flip.diffusion.augment_folder import REJECTED_FILE, begin, finish
from flip.diffusion.metadata import ImageMetadata
from flip.diffusion.pictures import read_metadata, save_picture
from flip.diffusion.slots import Slot
from flip.embed.cache import EmbeddingCache
from flip.embed.joining import join_shards
from flip.embed.keys import FileKey
from flip.embed.rows import NewRow
from flip.embed.shard_writer import write_shard
from flip.embed.sharding import Shard
from flip.embed.table import make_features, read_table_features, write_table
from flip.embed.text_cache import TextCache
from flip.errors import ConfigError
from flip.features import Features
from flip.files import write_json
from flip.report.compare import compare
from flip.report.rows import read_runs
from flip.results import Run, predict_row, score_predictions, write_run
from flip.training.checkpoints import Checkpoint, CheckpointFolder
from flip.training.resume import begin_run, finished_result, may_resume
from tests.embed.plain_encoder import extractor
from tests.fuzz.campaign import Reader
from tests.fuzz.readers_data import CLASSES, FOLDERS, equal, photo, picture

FINGERPRINT, DIM, N = "0123456789abcdef", 16, 24


def rows(seed: int = 0) -> np.ndarray:
    """Unit rows (n, d), classes apart from each other."""
    rng = np.random.default_rng(seed)
    centres = np.eye(DIM, dtype=np.float32)[np.arange(N) % 3]
    made = centres + 0.3 * rng.normal(size=(N, DIM)).astype(np.float32)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def dataset(root: Path) -> Dataset:
    """Twenty-four photos that need not be there."""
    records = (Record(f"{i}.jpg", i % 3, "train" if i % 4 else "test", (f"caption {i}",)) for i in range(N))
    return Dataset(root, "manifest", CLASSES, FOLDERS, tuple(records))


def features() -> Features:
    """Their features; one could not be read."""
    return make_features(dataset(Path("/photos")), rows(), [None] * (N - 1) + ["truncated image"], FINGERPRINT)


def keys() -> list[FileKey]:
    """Keys of as many files."""
    return [FileKey(f"/photos/{i}.jpg", 1000 + i, 10**18 + i) for i in range(N)]


def make_cache(folder: Path) -> None:
    """Two parts of photos and one of texts."""
    with EmbeddingCache(folder, FINGERPRINT, DIM, {"model": "x"}) as cache:
        for i, (key, row) in enumerate(zip(keys(), rows(), strict=True)):
            cache.add(NewRow(key, None if i == 3 else row, "truncated image" if i == 3 else None))
            if i == N // 2:
                cache.flush()
    with TextCache(folder, FINGERPRINT, DIM) as texts:
        texts.add(["a", "b", "c"], rows()[:3])


def read_cache(folder: Path) -> Any:
    """Look up what is there."""
    with EmbeddingCache(folder, FINGERPRINT, DIM) as cache:
        found = cache.look_up(keys())
    with TextCache(folder, FINGERPRINT, DIM) as kept:
        texts, known = kept.look_up(["a", "b", "c"])
    return found, texts, known


def same_cache(folder: Path, value: Any, usual: Any) -> str | None:
    """Cached rows equal those written; unknown rows are embedded again."""
    found, texts, known = value
    was, were, _ = usual
    if not np.array_equal(found.embeddings[found.known], was.embeddings[found.known]):
        return "another embedding"
    if [e for e, k in zip(found.errors, found.known, strict=True) if k] != [
        e for e, k in zip(was.errors, found.known, strict=True) if k
    ]:
        return "another error"
    return None if np.array_equal(texts[known], were[known]) else "another text embedding"


def make_embeddings(folder: Path) -> None:
    """Tables of ``flip embed -o``."""
    write_table(folder, features(), dataset(Path("/photos")), "some/model")


def read_embeddings(folder: Path) -> Any:
    """Read the rows and the features."""
    table = open_dataset(folder)
    found = read_table_features(table)
    return [
        *(found.image_features.tobytes(), found.labels.tolist(), found.paths, found.splits, found.captions),
        *(found.errors, found.classnames, found.raw_names, found.fingerprint),
    ]


def make_shards(folder: Path) -> None:
    """The parts of three shards."""
    for i in range(7):
        photo(folder / "photos" / FOLDERS[i % 3] / f"{i}.png", i)
    for i in range(3):
        write_shard(folder / "t", open_dataset(folder / "photos"), extractor(folder / "cache"), Shard(i, 3))


def read_shards(folder: Path) -> Any:
    """Join them, and read the table."""
    join_shards(folder / "t")
    return read_embeddings(folder / "t")


def same_embeddings(folder: Path, value: Any, usual: Any) -> str | None:
    """Rows equal those written; to rounding where nothing says any more that flip wrote them."""
    if not str(value[-1]).startswith("unknown-"):
        return equal(folder, value, usual)
    near = np.allclose(np.frombuffer(value[0], np.float32), np.frombuffer(usual[0], np.float32), atol=1e-6)
    return equal(folder, [near, *value[1:5]], [True, *usual[1:5]])


def make_heads(folder: Path) -> None:
    """A head of several kinds each."""
    train = features().split("train").readable()
    for name in ("gda", "linear", "svm-linear", "mlp"):
        make_head(name).fit(train).save(folder / name)


def read_heads(folder: Path) -> Any:
    """Load each and name the test photos."""
    test = features().split("test").readable()
    loaded = [load_classifier(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    return [(head.predict_proba(test).tobytes(), head.classes_, head.origin) for head in loaded]


def make_runs(folder: Path) -> None:
    """Two runs on the same photos."""
    labels = np.arange(N) % 3
    for seed, name in enumerate(("one", "two")):
        scores = np.random.default_rng(seed).dirichlet(np.ones(3), N).astype(np.float32)
        evaluation = score_predictions(scores, labels, CLASSES, command="knn", data="x", model="m", split="test")
        predictions = [predict_row(f"{i}.jpg", scores[i], CLASSES, top=3, truth=CLASSES[labels[i]]) for i in range(N)]
        write_run(folder / name, evaluation, predictions, {"data": "/nowhere"}, "data", "model")


def read_the_runs(folder: Path) -> Any:
    """Read, compare, and draw the page's tables."""
    found = [Run.open(folder / name) for name in ("one", "two")]
    return [row.to_dict() for row in compare(found)], [len(run.photos) for run in read_runs(found)]


def slots(folder: Path) -> list[Slot]:
    """Two images wanted of each class."""
    return [Slot(c, CLASSES[c], FOLDERS[c], FOLDERS[c], i, (f"a {c}",), (), 0) for c in range(3) for i in range(2)]


def make_augmented(folder: Path) -> None:
    """A finished generated set."""
    begin(folder, {"seed": 0, "data": "d"}, overwrite=False)
    for i, slot in enumerate(slots(folder)):
        metadata = ImageMetadata(
            prompt="a bird", seed=i, label=slot.raw_name, classname=slot.classname, source="a.jpg", attempt=0
        )
        (folder / slot.file).parent.mkdir(parents=True, exist_ok=True)
        save_picture(picture(i), folder / slot.file, metadata)
    (folder / REJECTED_FILE).write_text('{"file": "x", "attempt": 1, "dropped": "a copy"}\n')
    finish(folder, slots(folder), {"seed": 0, "data": "d"})


def read_augmented(folder: Path) -> Any:
    """Resume it, and read it as training photos."""
    begin(folder, {"seed": 0, "data": "d"}, overwrite=False)
    finish(folder, slots(folder), {"seed": 0, "data": "d"}, write=False)
    for file in sorted(folder.rglob("*.png")):
        read_metadata(file)
    return open_dataset(folder).splits


def make_checkpoints(folder: Path) -> None:
    """An unfinished and a finished training run."""
    run = folder / "run"
    run.mkdir()
    begin_run(run, {"lr": 0.1, "data_fingerprint": "d"}, ())
    saved = CheckpointFolder(run / "checkpoints")
    tensors = {"weights": {"w": torch.ones(3, 4)}, "optimizer": {"exp_avg/w": torch.zeros(3, 4)}}
    best = saved.save_best(1, {"w": torch.ones(3, 4)})
    saved.save(Checkpoint(tensors, {"step": 5, "loss_sum": 0.5, "best_file": best}))
    write_json(folder / "result.json", {"top1": 50.0})
    (run / "log.jsonl").write_text("".join(json.dumps({"step": i, "loss": 0.1}) + "\n" for i in range(9)))


def read_checkpoints(folder: Path) -> Any:
    """Resume it."""
    from flip.training.diffusion.finetune import _keep_log_until

    run = folder / "run"
    if not may_resume(run, {"lr": 0.1, "data_fingerprint": "d"}, result="result.json", resume=True, overwrite=False):
        raise ConfigError("nothing to resume")
    _keep_log_until(run / "log.jsonl", 5)
    found = CheckpointFolder(run / "checkpoints").load()
    if found is None:
        raise ConfigError("no checkpoint")
    best = CheckpointFolder(run / "checkpoints").load_best(str(found.state.get("best_file")))
    finished_result(folder / "result.json", resume=True)
    return {name: sorted(part) for name, part in found.tensors.items()}, sorted(best)


READERS = (
    Reader("cache", make_cache, read_cache, same_cache, writes=True),
    Reader("embeddings", make_embeddings, read_embeddings, same_embeddings),
    Reader("shards", make_shards, read_shards, equal, "t/shards/*", writes=True),
    Reader("heads", make_heads, read_heads, equal, cost=2),
    Reader("runs", make_runs, read_the_runs),
    Reader("augmented", make_augmented, read_augmented, cost=2),
    Reader("checkpoints", make_checkpoints, read_checkpoints),
)
