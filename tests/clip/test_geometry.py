"""flip resizes and crops a region as open_clip's validation transform does a photo."""

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from flip.clip.geometry import Geometry
from flip.clip.tower import split_preprocess
from flip.data.scaled import ScaledPhoto

FRAMES = [(32, "shortest"), (32, "squash"), (32, "longest"), ((24, 40), "shortest"), ((40, 24), "squash")]


def theirs(cfg):
    return split_preprocess(image_transform_v2(PreprocessCfg(**cfg), is_train=False))[0]


@pytest.mark.parametrize("size", [(90, 50), (51, 77), (64, 64), (33, 32), (20, 14), (400, 13), (333, 500)], ids=str)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("frame", "mode"), FRAMES, ids=str)
def test_a_whole_photo_is_seen_as_open_clip_sees_it(frame, mode, interpolation, size):
    cfg = {"size": frame, "resize_mode": mode, "interpolation": interpolation}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    geometry = Geometry.of(cfg)
    ours = np.asarray(geometry.view(ScaledPhoto(image, (0, 0, *size), size, 1)))
    assert (ours == theirs(cfg)(image)).all()


def test_the_longest_frame_that_is_not_square_is_padded():
    cfg = {"size": (24, 40), "resize_mode": "longest", "interpolation": "bicubic"}
    image = Image.new("RGB", (50, 50), (200, 100, 50))
    ours = np.asarray(Geometry.of(cfg).view(ScaledPhoto(image, (0, 0, 50, 50), (50, 50), 1)))
    assert (ours == theirs(cfg)(image)).all()
    assert ours.shape == (24, 40, 3)
    assert not ours[:, :8].any()


@pytest.mark.parametrize("change", [{"fill_color": 255}, {"resize_mode": "other"}, {"size": None}, {"size": 0}])
def test_what_is_not_known_has_no_geometry(change):
    assert Geometry.of({"size": 32, "resize_mode": "shortest", **change}) is None


@pytest.mark.parametrize(
    ("frame", "mode", "least"), [(32, "shortest", (128, 64)), (32, "squash", (64, 64)), (32, "longest", (64, 32))]
)
def test_twice_what_is_seen_is_kept(frame, mode, least):
    assert Geometry.of({"size": frame, "resize_mode": mode}).least(400, 200) == least
