"""Few-shot training of the projection against the equation in float64, for each kind of image tower."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch

from flip.clip.model import load_model
from flip.data.open import open_dataset
from flip.errors import ConfigError, DataError
from flip.studies.few_shot import draws
from flip.training.clip.projection import Problem, find_projection, fit_projection, projection_loss, relative_length
from flip.training.clip.run import train_clip
from flip.training.clip.validation import split_few_shot
from flip.training.settings import ClipSettings, Hardware
from tests.conftest import TINY_CONFIG, write_captioned, write_squares

SETTINGS = ClipSettings(shots="2", train="projection", batch_size=8)
CPU = Hardware(device="cpu", precision="fp32", workers=2)
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
TIMM = {"timm_model_name": "test_resnet", "timm_model_pretrained": False, "timm_pool": "avg", "image_size": 32}


def network(**vision):
    torch.manual_seed(0)
    return open_clip.CLIP(**TINY_CONFIG["model_cfg"] | ({"vision_cfg": vision} if vision else {})).eval()


def problem(n=7, p=24, d=12, c=3):
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(c, d))
    return {
        "start": rng.normal(size=(d, p)),
        "bias": rng.normal(size=d),
        "entering": rng.normal(size=(n, p)),
        "targets": rng.integers(c, size=n),
        "shares": np.full(n, 1 / n),
        "class_embeddings": texts / np.linalg.norm(texts, axis=1, keepdims=True),
    }


def direct(weight, start, bias, entering, targets, shares, class_embeddings, scale, strength):
    """The equation of the paper, one photo at a time."""
    total = 0.0
    for x, y, share in zip(entering, targets, shares, strict=True):
        image = weight @ x + bias
        logits = scale * class_embeddings @ (image / np.sqrt((image**2).sum()))
        total += share * (np.log(np.exp(logits).sum()) - logits[y])
    return total + strength * ((weight - start) ** 2).sum()


@pytest.mark.parametrize(("scale", "strength"), [(1.0, 0.0), (10.0, 1.0), (30.0, 0.25)])
def test_the_objective_is_the_equation(scale, strength):
    arrays = problem()
    weight = arrays["start"] + np.random.default_rng(1).normal(size=arrays["start"].shape)
    ours = projection_loss(
        torch.tensor(weight), Problem(*(torch.tensor(a) for a in arrays.values()), scale=scale, strength=strength)
    )
    assert float(ours) == pytest.approx(direct(weight, *arrays.values(), scale, strength), rel=1e-12)


@pytest.mark.parametrize("strength", [0.2, 1.0, 5.0])
def test_the_fit_is_a_minimum(strength):
    arrays = {name: torch.tensor(a) for name, a in problem().items()}
    weight, loss = fit_projection(Problem(**arrays, scale=10.0, strength=strength))
    length = relative_length(arrays["start"], arrays["bias"], arrays["entering"])
    moved, strength = weight.clone().requires_grad_(), strength * length**2
    reached = projection_loss(moved, Problem(**arrays, scale=10.0, strength=strength))
    reached.backward()
    assert float(moved.grad.abs().max()) < 1e-3
    assert loss == pytest.approx(float(reached.detach()))
    assert loss < float(projection_loss(arrays["start"], Problem(**arrays, scale=10.0, strength=strength)))


@pytest.mark.parametrize("factor", [0.01, 3.0, 100.0])
def test_the_units_of_the_features_do_not_matter(factor):
    arrays = {name: torch.tensor(a) for name, a in problem().items()}
    other = arrays | {"entering": factor * arrays["entering"], "start": arrays["start"] / factor}
    ours, theirs = (fit_projection(Problem(**a, scale=10.0, strength=1.0))[0] for a in (arrays, other))
    assert torch.allclose(ours, factor * theirs, atol=1e-4)


def test_a_great_strength_changes_nothing():
    arrays = {name: torch.tensor(a) for name, a in problem().items()}
    weight, _ = fit_projection(Problem(**arrays, scale=10.0, strength=1e6))
    assert torch.allclose(weight, arrays["start"], atol=1e-4)


@pytest.mark.parametrize("vision", [{}, RESNET, {**TIMM, "timm_proj": "linear", "timm_proj_bias": True}])
def test_what_enters_the_projection_is_found_in_each_kind_of_tower(vision):
    visual = network(**vision).visual
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = visual(pixels)
        names = list(visual.state_dict())
        projection = find_projection(visual, "tiny")
        with projection.left_out():
            entering = visual(pixels)
        expected = torch.nn.functional.linear(entering, projection.weight, projection.bias)
        assert torch.allclose(before, expected, atol=1e-5)
        projection.put(2 * projection.weight)
        bias = 0 if projection.bias is None else projection.bias
        assert torch.allclose(visual(pixels), 2 * (before - bias) + bias, atol=1e-5)
    assert list(visual.state_dict()) == names


@pytest.mark.parametrize("projection", ["mlp", "none"])
def test_a_tower_that_ends_in_no_linear_map_is_refused(projection):
    visual = network(**TIMM, timm_proj=projection).visual
    with pytest.raises(
        ConfigError, match="the image tower of tiny ends in no linear map of its own; leave out --train"
    ):
        find_projection(visual, "tiny")


def fit(model, dataset, folder, settings=SETTINGS):
    shots = None if settings.shots == "all" else int(settings.shots)
    split = split_few_shot(dataset, shots, settings.seed)
    return train_clip(load_model(str(model)), split, folder, settings, CPU)


def test_only_the_projection_changes_and_a_seed_repeats_bit_for_bit(tmp_path, tiny_model, squares):
    dataset = open_dataset(squares)
    runs = [fit(tiny_model, dataset, tmp_path / name) for name in ("a", "b")]
    before = load_model(str(tiny_model)).network.state_dict()
    a, b = (load_model(str(run.folder)).network.state_dict() for run in runs)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [name for name in a if not torch.equal(a[name], before[name])] == ["visual.proj"]
    assert runs[0].parameters == before["visual.proj"].numel()


def test_photos_are_those_that_other_commands_draw(squares):
    dataset = open_dataset(squares)
    train = dataset.select("train")
    for shots, seed in [(1, 0), (2, 0), (3, 5)]:
        *_, draw = draws(train.labels, [shots], seed + 1)
        split = split_few_shot(dataset, shots, seed)
        assert [r.path for r in split.training.records] == [train.records[i].path for i in draw.rows]
        assert len(split.validation) == 0
    assert split_few_shot(dataset, None, 0).training.records == train.records


def test_more_shots_than_a_class_has_take_all_and_say_so(squares, caplog):
    with caplog.at_level(logging.INFO, "flip"):
        split = split_few_shot(open_dataset(squares), 50, 0)
    assert len(split.training) == 24
    assert "50 shots: 4 classes have fewer training photos and give all they have" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shots": "0"}, "--shots '0': '0' is no number of photos"),
        ({"shots": "1,2"}, "--shots 1,2: a run makes one model"),
        ({"shots": "2", "wise": "sweep"}, "--wise sweep chooses by photos that are not trained on"),
        ({"shots": "2", "train": "projection", "keep": 1.0}, "leave out --keep"),
    ],
)
def test_what_does_not_go_together_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        ClipSettings(**values)


def test_captions_are_not_read_and_a_line_says_so(tmp_path, tiny_model, caplog):
    dataset = open_dataset(write_captioned(tmp_path / "data"))
    with caplog.at_level(logging.INFO, "flip"):
        fit(tiny_model, dataset, tmp_path / "run", replace(SETTINGS, shots="all"))
    assert "captions are not read: the projection learns from class prompts" in caplog.text


def test_shots_train_low_rank_additions_of_both_towers_by_default(tmp_path, tiny_model, squares):
    settings = ClipSettings(shots="1", epochs=1, batch_size=4)
    runs = [fit(tiny_model, open_dataset(squares), tmp_path / name, settings) for name in ("a", "b")]
    before = load_model(str(tiny_model)).network.state_dict()
    a, b = (load_model(str(run.folder)).network.state_dict() for run in runs)
    assert all(torch.equal(a[name], b[name]) for name in a)
    changed = {name for name in a if not torch.equal(a[name], before[name])}
    assert any(name.startswith("visual.") for name in changed)
    assert any(name.startswith("transformer.") for name in changed)
    # Ten passes over four photos in batches of four.
    assert runs[0].trainer.steps == 10


def test_a_photo_that_cannot_be_read_is_passed_over_and_a_class_without_any_is_an_error(tmp_path, tiny_model):
    folder = write_squares(tmp_path / "data" / "train", photos=2)
    (folder / "red_fox" / "0.png").write_bytes(b"no photo")
    run = fit(tiny_model, open_dataset(tmp_path / "data"), tmp_path / "run")
    assert len(run.trainer.unreadable) == 1
    assert "red_fox/0.png cannot be read" in next(iter(run.trainer.unreadable.values()))
    (folder / "red_fox" / "1.png").write_bytes(b"no photo either")
    with pytest.raises(DataError, match="no training photo of a class can be read"):
        fit(tiny_model, open_dataset(tmp_path / "data"), tmp_path / "other")


def test_generated_images_weigh_their_share(tmp_path, tiny_model, squares):
    more = open_dataset(write_squares(tmp_path / "more", seed=5, photos=3), layout="class-folders")
    weights = []
    for share in (0.0, 0.5):
        split, settings = split_few_shot(open_dataset(squares), 2, 0), replace(SETTINGS, augmented_weight=share)
        run = train_clip(
            load_model(str(tiny_model)), split, tmp_path / str(share), settings, CPU, augmented=more, overwrite=True
        )
        weights.append(load_model(str(run.folder)).network.state_dict()["visual.proj"])
    alone = fit(tiny_model, open_dataset(squares), tmp_path / "alone")
    expected = load_model(str(alone.folder)).network.state_dict()["visual.proj"]
    assert torch.allclose(weights[0], expected, atol=1e-4)
    assert not torch.allclose(weights[1], expected, atol=1e-4)
