from __future__ import annotations

import subprocess
import sys

import pytest

from flip.errors import ConfigError
from flip.training.settings import ClipSettings, DiffusionSettings, parse_square, parse_wise


def test_importing_the_settings_loads_nothing_heavy():
    code = "import flip.training.settings, sys; print({'torch', 'numpy', 'typer'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ClipSettings, {"epochs": 0}, "--epochs 0 is too small; pass 1 or more"),
        (ClipSettings, {"batch_size": 0}, "--batch-size 0 is too small"),
        (DiffusionSettings, {"grad_accum": 0}, "--grad-accum 0 is too small"),
        (DiffusionSettings, {"save_every": 0}, "--save-every 0 is too small"),
        (DiffusionSettings, {"lora": 0}, "--lora 0 is too small"),
        (DiffusionSettings, {"warmup": 2}, "--warmup 2 is outside 0 to 1"),
        (DiffusionSettings, {"lr": -1.0}, "--lr -1 is not positive"),
        (DiffusionSettings, {"clip_grad": 0}, "--clip-grad 0 is not positive"),
        (ClipSettings, {"patience": -1}, "--patience -1 is too small; pass 0 or more"),
        (ClipSettings, {"holdout_classes": -1}, "--holdout-classes -1 is too small"),
        (ClipSettings, {"val_fraction": 0.9}, "--val-fraction 0.9 is outside 0 to 0.5"),
        (ClipSettings, {"wise": "half"}, "--wise 'half' is not a weight"),
        (DiffusionSettings, {"views": 0}, "--views 0 is too small"),
        (DiffusionSettings, {"sample_every": -1}, "--sample-every -1 is too small"),
        (DiffusionSettings, {"ema": 2}, "--ema 2 is outside 0 to 1"),
        (DiffusionSettings, {"caption_dropout": 2}, "--caption-dropout 2 is outside 0 to 1"),
        (DiffusionSettings, {"snr_gamma": -1}, "--snr-gamma -1 is negative"),
        (DiffusionSettings, {"size": 12}, "--size 12 is no size; pass one number such as 512, a multiple of 8"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        kind(**values)


def test_what_text_options_mean():
    assert [parse_wise(text) for text in (None, "sweep", "0.5")] == [None, None, 0.5]
    assert [parse_square(size) for size in (None, 64, "512", "512X512")] == [None, 64, 512, 512]
    with pytest.raises(ConfigError, match="--size 16x32 is no square"):
        parse_square("16x32")


def test_peak_learning_rates_of_a_diffusion_model():
    rates = [DiffusionSettings().peak_lr, DiffusionSettings(lora=4).peak_lr, DiffusionSettings(lora=4, lr=3.0).peak_lr]
    assert rates == [1e-5, 1e-4, 3.0]
