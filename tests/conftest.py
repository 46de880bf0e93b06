"""What tests share: coloured squares, a real two-layer dual encoder, a tiny diffusion model, and real photos."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# Before any library reads it: the tests touch no network.
os.environ["HF_HUB_OFFLINE"] = "1"
# One test process per core: threads of one that spin while they wait hold up the other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for _name in ("FLIP_MODEL", "FLIP_DATA", "FLIP_DEBUG"):
    os.environ.pop(_name, None)
# Not the user's own.
os.environ["FLIP_CACHE"] = tempfile.mkdtemp(prefix="flip-tests-")
atexit.register(shutil.rmtree, os.environ["FLIP_CACHE"], ignore_errors=True)

#: Real photos and a real small model, where there are any.
SHARED = Path(os.environ.get("FLIP_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared")

COLOURS = {"black_cat": (20, 20, 20), "blue_jay": (40, 60, 220), "green_frog": (40, 180, 60), "red_fox": (220, 50, 30)}
PHOTOS_PER_CLASS = 6

TINY_CONFIG = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.48, 0.46, 0.41],
        "std": [0.27, 0.26, 0.28],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def write_squares(folder: Path, seed: int = 0, photos: int = PHOTOS_PER_CLASS) -> Path:
    """Write ``<class>/<n>.png``: squares of the class's colour with noise, each file different."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(photos):
            noise = rng.normal(0, 25, (40, 48, 3))
            pixels = np.clip(np.asarray(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def write_captioned(folder: Path) -> Path:
    """Write split folders of squares, 4 classes × 6 photos each, with two captions for each photo."""
    for seed, split in enumerate(("train", "test"), 1):
        write_squares(folder / split, seed=seed)
        names = [f"{kind}/{i}.png" for kind in COLOURS for i in range(PHOTOS_PER_CLASS)]
        rows = [{"file_name": n, "text": [f"a {n.split('_')[0]} thing, number {n[-5]}", "a photo"]} for n in names]
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_model(folder: Path, seed: int = 0) -> Path:
    """Write a two-layer open_clip model with random weights as a local-dir folder."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**TINY_CONFIG["model_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(TINY_CONFIG))
    return folder


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Split folders: train and test with 4 classes × 6 photos each."""
    root = tmp_path_factory.mktemp("squares")
    write_squares(root / "train", seed=1)
    write_squares(root / "test", seed=2)
    return root


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny dual encoder."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights."""
    return write_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def pipeline() -> Any:
    """The tiny diffusion model as a diffusers pipeline; tests do not change it."""
    from tests.diffusion.tiny import make_pipeline

    return make_pipeline()


@pytest.fixture(scope="session")
def state(pipeline: Any) -> OrderedDict[str, Any]:
    """Its weights in latent-diffusion naming."""
    from tests.diffusion.tiny import ldm_state

    return ldm_state(pipeline)


@pytest.fixture(scope="session")
def ckpt(state: OrderedDict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as a Lightning checkpoint, ``tiny.ckpt``."""
    from tests.diffusion.tiny import save_ckpt

    return save_ckpt(tmp_path_factory.mktemp("diffusion") / "tiny.ckpt", state)


@pytest.fixture(scope="session")
def folder(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as a diffusers folder."""
    path = tmp_path_factory.mktemp("diffusion") / "folder"
    pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole run, for tests that convert checkpoints."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and of a real small model; tests that use it skip where it is absent."""
    if not (SHARED / "data" / "birds").is_dir():
        pytest.skip("the real photos are not here")
    return SHARED


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 store on this machine."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3_environment(s3_server: str) -> dict[str, str]:
    """The environment by which ``s3://`` URLs reach that store."""
    return {
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def s3(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 store with the empty bucket ``birds``, which URLs reach by the environment; yields its file system."""
    import s3fs

    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    store.mkdir("birds")
    yield store
    store.rm("birds", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system of ``memory://`` URLs, empty."""
    import fsspec

    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()
