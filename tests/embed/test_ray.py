"""Embedding by Ray gives what this process gives, row for row, and outlives a worker that is killed.

Every process of the tests would start its own Ray, so all but one of the tests that need it are slow ones.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flip.clip.model import load_model
from flip.data.open import open_dataset
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings, EngineSettings
from flip.errors import ConfigError, MissingDependencyError, ModelError
from tests.conftest import write_squares
from tests.data.tar_files import write_tar

#: A worker imports torch, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(280)

ROOT = Path(__file__).resolve().parents[2]
SMALL = EmbedSettings(batch_size=4)


class DyingEncoder:
    """An encoder whose process is killed the first time that any process encodes its second batch."""

    def __init__(self, model: Path, marker: Path) -> None:
        self._encoder = load_model(str(model))
        self._marker, self._batches = marker, 0

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "placed":  # it runs as it is
            raise AttributeError(name)
        return getattr(self._encoder, name)

    def encode_images(self, prepared):
        self._batches += 1
        if self._batches == 2 and not self._marker.exists():
            self._marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), 9)
        return self._encoder.encode_images(prepared)


class PoisonedEncoder(DyingEncoder):
    """An encoder whose process is killed whenever it prepares a photo 33 pixels wide."""

    def __getattr__(self, name: str):
        if name == "preparer":
            raise AttributeError(name)
        return super().__getattr__(name)

    def prepare(self, image):
        if image.width == 33:
            os.kill(os.getpid(), 9)
        return self._encoder.prepare(image)


@pytest.fixture
def ray(s3_environment):
    """Ray with workers that find this folder's modules and the S3 store, for several tests at once."""
    found = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    if not found.is_initialized():
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        found.init(
            address="local",
            num_cpus=3,
            include_dashboard=False,
            object_store_memory=200 << 20,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": {**s3_environment, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
        )
    return found


@pytest.fixture(scope="module", autouse=True)
def _end_of_ray():
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders with a photo that is none."""
    write_squares(tmp_path / "birds")
    (tmp_path / "birds" / "red_fox" / "broken.png").write_bytes(b"no photo")
    return tmp_path / "birds"


def embed_by_ray(dataset, model: Path, cache: Path, **options):
    """Return the features of a dataset, and how many of its photos Ray embedded."""
    from flip.embed.ray_engine import embed_ahead

    extractor = FeatureExtractor(load_model(str(model)), SMALL, cache)
    settings = EngineSettings(engine="ray", **{"actors": 2} | options)
    done = embed_ahead(dataset, extractor, partial(load_model, str(model)), settings)
    return extractor.features(dataset), done


def require_equal(made, expected) -> None:
    assert made.paths == expected.paths
    assert made.errors == expected.errors
    readable = np.array([error is None for error in expected.errors])
    cosines = np.einsum("nd,nd->n", made.image_features, expected.image_features)
    assert (cosines[readable] >= 0.9999).all()
    assert not made.image_features[~readable].any()


@pytest.mark.slow
def test_two_workers_give_the_rows_of_this_process(ray, photos, tiny_model, tmp_path):
    dataset = open_dataset(photos)
    made, done = embed_by_ray(dataset, tiny_model, tmp_path / "ray")
    assert done == len(dataset) == 25
    require_equal(made, FeatureExtractor(load_model(str(tiny_model)), SMALL, tmp_path / "local").features(dataset))
    assert sum(error is not None for error in made.errors) == 1


@pytest.mark.slow
def test_tars_and_urls_are_read_by_the_workers_themselves(ray, photos, tiny_model, tmp_path, s3):
    pytest.importorskip("webdataset")
    members = {}
    for photo in sorted(photos.rglob("*.png")):
        key = photo.relative_to(photos).with_suffix("").as_posix()
        members |= {f"{key}.png": photo.read_bytes(), f"{key}.cls": photo.parent.name.encode()}
    s3.pipe("birds/all.tar", write_tar(tmp_path / "all.tar", members).read_bytes())
    expected = FeatureExtractor(load_model(str(tiny_model)), SMALL, tmp_path / "local").features(
        open_dataset(tmp_path / "all.tar")
    )
    for place in (tmp_path / "all.tar", "s3://birds/all.tar"):
        dataset = open_dataset(place, cache=tmp_path / "cache")
        made, _ = embed_by_ray(dataset, tiny_model, tmp_path / "cache")
        require_equal(made, expected)


def test_what_the_cache_knows_starts_no_ray(photos, tiny_model, tmp_path, monkeypatch):
    dataset = open_dataset(photos)
    FeatureExtractor(load_model(str(tiny_model)), SMALL, tmp_path / "cache").features(dataset)
    monkeypatch.setitem(sys.modules, "ray", None)
    _, done = embed_by_ray(dataset, tiny_model, tmp_path / "cache")
    assert done == 0


def test_a_worker_that_is_killed_costs_nothing(ray, photos, tiny_model, tmp_path):
    from flip.embed.ray_engine import embed_ahead

    dataset, marker = open_dataset(photos), tmp_path / "killed"
    load = partial(DyingEncoder, tiny_model, marker)
    extractor = FeatureExtractor(load(), SMALL, tmp_path / "cache")
    embed_ahead(dataset, extractor, load, EngineSettings(engine="ray", actors=2))
    assert int(marker.read_text()) != os.getpid()
    made = extractor.features(dataset)
    require_equal(made, FeatureExtractor(load_model(str(tiny_model)), SMALL, tmp_path / "local").features(dataset))
    with extractor.open_cache() as cache:
        assert not extractor.missing(dataset, cache)


@pytest.mark.slow
def test_a_photo_of_which_every_worker_dies_ends_the_command(ray, photos, tiny_model, tmp_path):
    from flip.embed.ray_engine import embed_ahead

    Image.new("RGB", (33, 40)).save(photos / "red_fox" / "poison.png")
    load = partial(PoisonedEncoder, tiny_model, tmp_path / "unused")
    extractor = FeatureExtractor(load(), SMALL, tmp_path / "cache")
    with pytest.raises(ModelError, match=r"workers of Ray failed \(.*died.*\); what they finished is kept"):
        embed_ahead(open_dataset(photos), extractor, load, EngineSettings(engine="ray", actors=1))


@pytest.mark.slow
def test_a_worker_with_another_model_is_refused(ray, photos, tiny_model, other_model, tmp_path):
    from flip.embed.ray_engine import embed_ahead

    extractor = FeatureExtractor(load_model(str(tiny_model)), SMALL, tmp_path / "cache")
    with pytest.raises(ModelError, match="a worker has another model"):
        embed_ahead(
            open_dataset(photos),
            extractor,
            partial(load_model, str(other_model)),
            EngineSettings(engine="ray", actors=1),
        )


@pytest.mark.slow
def test_as_many_models_as_cpus_are_refused(ray, photos, tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="--actors 64 leaves none of the cluster's"):
        embed_by_ray(open_dataset(photos), tiny_model, tmp_path / "cache", actors=64)


def test_a_cluster_that_is_not_there_is_one_line(photos, tiny_model, tmp_path):
    ray = pytest.importorskip("ray")
    ray.shutdown()
    with pytest.raises(ConfigError, match=r"the cluster at 127.0.0.1:9 cannot be reached"):
        embed_by_ray(open_dataset(photos), tiny_model, tmp_path / "cache", ray_address="127.0.0.1:9")


def test_without_ray_the_message_says_how_to_install_it(photos, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'flip-clip\[ray\]'"):
        embed_by_ray(open_dataset(photos), tiny_model, tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"engine": "spark"}, "pass local or ray"),
        ({"actors": 2}, "--actors belongs to --engine ray"),
        ({"ray_address": "auto"}, "--ray-address belongs to --engine ray"),
        ({"engine": "ray", "actors": 0}, "--actors"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        EngineSettings(**options)
