"""A configuration's values are checked one by one: the message names file, key and what is allowed."""

import json

import pytest

from flip.clip.model import load_model, new_model
from flip.errors import ConfigError, ModelError
from tests.clip.tiny import write_config
from tests.conftest import TINY_CONFIG, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("ranges") / "m")


def refused(folder, message):
    """Weights beside the configuration and none: the same line."""
    with pytest.raises(ModelError, match=f"open_clip_config.json: {message}") as e:
        load_model(str(folder))
    assert "\n" not in str(e.value)
    assert "weights" not in str(e.value)
    with pytest.raises(ConfigError, match=message):
        new_model(folder / "open_clip_config.json", 0)


@pytest.mark.parametrize("value", [10**400, -(10**30), 0, 65_537, 32.0, "32", True, None, [32]])
def test_an_embedding_s_size_is_a_positive_whole_number(folder, value):
    write_config(folder, embed_dim=value)
    refused(folder, r"model_cfg.embed_dim is \S+; (at most|a whole number from 1 to) 65,536")


@pytest.mark.parametrize(
    "vision",
    [
        {"image_size": -32},
        {"image_size": 0},
        {"image_size": 8192, "patch_size": 1},
        {"image_size": [32, 64, 3]},
        {"layers": "2"},
        {"layers": -1},
        {"layers": [2, 2]},
        {"layers": None},
        {"width": 0},
        {"head_width": 0},
        {"patch_size": 0},
        {"patch_size": None},
        {"attn_pooler_queries": 10**6},
    ],
)
def test_sizes_of_an_image_tower_are_positive_whole_numbers(folder, vision):
    write_config(folder, vision=vision)
    refused(folder, rf"vision_cfg.{next(iter(vision))} is .*(a whole number from 1 to|at most) [\d,]+")


@pytest.mark.parametrize(
    "text", [{"context_length": 0}, {"context_length": 4_000_000}, {"context_length": True}, {"vocab_size": "x"}]
)
def test_sizes_of_a_text_tower_are_positive_whole_numbers(folder, text):
    write_config(folder, text)
    refused(folder, rf"text_cfg.{next(iter(text))} is .*(a whole number from 1 to|at most) [\d,]+")


@pytest.mark.parametrize(
    ("vision", "count"),
    [
        ({"image_size": 4096, "patch_size": 1}, "16,777,216"),
        ({"image_size": [4096, 2048], "patch_size": 8}, "131,072"),
        ({"image_size": 32, "patch_size": 64}, "0"),
    ],
)
def test_an_image_has_no_more_patches_than_memory_holds(folder, vision, count):
    write_config(folder, vision=vision)
    refused(folder, f"vision_cfg.image_size .* make {count} patches; 1 to 16,384 are allowed")


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("vision", {"head_width": 48}, "vision_cfg.head_width is 48, which does not divide width 64"),
        ("text", {"heads": 3}, "text_cfg.heads is 3, which does not divide width 64"),
        ("text", {"mlp_ratio": 0}, "text_cfg.mlp_ratio is 0; a number above 0"),
        ("vision", {"mlp_ratio": "4"}, "vision_cfg.mlp_ratio is '4'; a number above 0"),
        ("vision", {"act_kwargs": {"a": 1}}, "vision_cfg.act_kwargs has 'a'; approximate is allowed"),
        ("text", {"norm_kwargs": {"p": 1}}, "text_cfg.norm_kwargs has 'p'; eps, "),
        ("vision", {"act_kwargs": {"approximate": "x"}}, "vision_cfg.act_kwargs.approximate is 'x'; none or tanh"),
        ("text", {"norm_kwargs": {"eps": "x"}}, "text_cfg.norm_kwargs.eps is 'x'; a number from 0 to 1"),
        ("vision", {"timm_model_name": ".."}, "vision_cfg.timm_model_name is '..'; only the name of an architecture"),
    ],
)
def test_other_settings_of_towers(folder, part, settings, message):
    write_config(folder, **{part: settings})
    refused(folder, message)


@pytest.mark.parametrize(
    ("key", "values", "allowed"),
    [
        ("mean", ["x", [1, 2], [0.5, 0.5, "x"], [[0.5]]], "3 numbers in a list is allowed|a number, a text or a list"),
        ("std", [0, [0, 0, 0], [0.2, -0.2, 0.2]], "3 numbers in a list above 0 is allowed"),
        ("interpolation", ["eval", 3, "nearest"], "bicubic or bilinear or random is allowed"),
        ("resize_mode", [7, "crop", ["squash"]], "shortest or longest or squash is allowed"),
        ("mode", ["CMYK", 1, "L"], "RGB is allowed"),
        ("fill_color", ["red", [1, 2], True], "a number is allowed"),
    ],
)
def test_preprocessing(folder, key, values, allowed):
    for value in values:
        config = json.loads(json.dumps(TINY_CONFIG))
        config["preprocess_cfg"][key] = value
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        refused(folder, f"preprocess_cfg.{key} (is|holds) .*({allowed})")
