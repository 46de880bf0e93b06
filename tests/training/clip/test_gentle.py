"""Training is gentle where the model knows the classes and nobody chose otherwise."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from flip.clip.model import load_model
from flip.data.open import open_dataset
from flip.training.clip import gentle
from flip.training.clip.gentle import settled, share_named
from flip.training.settings import ClipSettings, Hardware

CPU = Hardware(device="cpu", precision="fp32", workers=2)
OPEN = ClipSettings(batch_size=8)


@pytest.fixture
def given(tiny_model, squares):
    return load_model(str(tiny_model)), open_dataset(squares).select("train")


def test_the_share_is_zero_shot_s_of_as_many_photos_of_each_class(given, monkeypatch):
    model, photos = given
    share, count = share_named(model, photos, OPEN, CPU, crop=False)
    assert count == 24
    assert (share * 24) % 1 == pytest.approx(0)
    for most in (8, 3):
        monkeypatch.setattr(gentle, "PHOTOS", most)
        assert share_named(model, photos, OPEN, CPU, crop=False)[1] == most


@pytest.mark.parametrize(("share", "gently"), [(0.0, False), (0.74, False), (0.75, True), (1.0, True)])
def test_a_model_that_names_most_photos_is_trained_gently(given, monkeypatch, caplog, share, gently):
    monkeypatch.setattr(gentle, "share_named", lambda *_, **__: (share, 24))
    with caplog.at_level(logging.INFO, "flip"):
        settings = settled(*given, OPEN, CPU, crop=False)
    assert (settings.keep, settings.wise) == ((1.0, "0.5") if gently else (0.0, None))
    assert ("training is gentle (--keep 1 --wise 0.5)" in caplog.text) == gently


@pytest.mark.parametrize("more", [{"lr": 1e-4}, {"keep": 0.0}, {"wise": "0.9"}, {"shots": "2"}])
def test_what_was_chosen_stays(given, monkeypatch, more):
    monkeypatch.setattr(gentle, "share_named", lambda *_, **__: (1.0, 24))
    chosen = replace(OPEN, **more)
    settings = settled(*given, chosen, CPU, crop=False)
    assert settings == replace(chosen, keep=chosen.keep or 0.0)
