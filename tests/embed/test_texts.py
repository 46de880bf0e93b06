import numpy as np
import pytest

from flip.clip.model import load_model
from flip.clip.prompts import class_prompts
from flip.data.open import open_dataset
from flip.embed.extractor import FeatureExtractor, extract_features
from flip.embed.settings import EmbedSettings
from flip.embed.texts import build_zero_shot_classifier


def test_the_zero_shot_classifier_is_the_mean_of_each_class_s_prompts(tiny_model, squares, tmp_path):
    model, names = load_model(str(tiny_model)), ("red fox", "blue jay")
    prompts = class_prompts("clip", names)
    classifier = build_zero_shot_classifier(prompts, model, cache=tmp_path)
    means = np.stack([model.encode_texts(texts).mean(axis=0) for texts in prompts.texts])
    assert classifier.class_embeddings == pytest.approx(means / np.linalg.norm(means, axis=1, keepdims=True), abs=1e-5)
    assert classifier.classes_ == names
    assert (classifier.logit_scale, classifier.fingerprint) == (model.logit_scale, model.fingerprint)
    extractor = FeatureExtractor(model, EmbedSettings(device="cpu"), tmp_path)
    assert (extractor.class_embeddings(prompts) == classifier.class_embeddings).all()


def test_the_zero_shot_classifier_names_photos(tiny_model, squares, tmp_path):
    model, dataset = load_model(str(tiny_model)), open_dataset(squares)
    classifier = build_zero_shot_classifier(class_prompts("plain", dataset.classnames), model, cache=tmp_path)
    features = extract_features(dataset, model, settings=EmbedSettings(device="cpu", precision="fp32"), cache=tmp_path)
    scores = features.image_features @ classifier.class_embeddings.T
    assert (classifier.predict(features) == scores.argmax(axis=1)).all()
