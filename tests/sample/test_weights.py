"""The sample's models: small, readable by open_clip and diffusers alone, and able to do what they are for."""

import json

import numpy as np
import pytest

from flip.classify.heads import build_head
from flip.classify.text_side import build_text_side
from flip.clip.model import load_model
from flip.clip.prompts import class_prompts
from flip.data.open import open_dataset
from flip.device import resolve_device
from flip.diffusion.checkpoint import load_pipeline
from flip.diffusion.painter import Painter, Picture, picture_seed
from flip.diffusion.settings import DrawSettings
from flip.diffusion.texts import drawing_prompts
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings
from flip.names import SAMPLE
from flip.sample import weights
from flip.sample.fieldguide import FieldGuide, write_guide
from flip.sample.species import SPECIES, other_species

MEGABYTE = 1_000_000


def size(folder, pattern="*"):
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())


def test_the_weights_are_small_and_the_wheel_with_them():
    assert size(weights.clip_folder(), "*.safetensors") <= 6 * MEGABYTE
    assert size(weights.diffusion_folder(), "*.safetensors") <= 18 * MEGABYTE
    assert size(weights.clip_folder().parents[2]) < 40 * MEGABYTE


def test_weights_are_stored_in_half_precision():
    from safetensors import safe_open

    for file in (*weights.clip_folder().glob("*.safetensors"), *weights.diffusion_folder().rglob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


def test_open_clip_alone_reads_the_clip():
    import open_clip

    folder = f"local-dir:{weights.clip_folder()}"
    network, _ = open_clip.create_model_from_pretrained(folder)
    tokens = open_clip.get_tokenizer(folder)(["a photo of a Red-crowned Marsh Finch.", "ein Vogel, 鳥"])
    assert network.encode_text(tokens).shape == (2, 128)
    model = load_model(SAMPLE)
    assert np.allclose(network.eval().encode_text(tokens).detach(), model.network.encode_text(tokens), atol=1e-5)


def test_diffusers_alone_reads_the_diffusion_model():
    diffusers = pytest.importorskip("diffusers")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(weights.diffusion_folder(), local_files_only=True)
    assert pipeline.tokenizer("a red crown").input_ids[0] == pipeline.tokenizer.bos_token_id


def test_both_models_have_one_vocabulary():
    clip, diffusion = weights.clip_folder(), weights.diffusion_folder() / "tokenizer"
    assert json.loads((clip / "vocab.json").read_text()) == json.loads((diffusion / "vocab.json").read_text())


def test_the_vocabulary_is_what_the_recipe_writes(tmp_path):
    from flip.sample.vocabulary import write_vocabulary

    assert write_vocabulary(tmp_path) == 772
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (weights.clip_folder() / name).read_bytes()


@pytest.mark.parametrize(("species", "seed"), [(SPECIES, 5), (other_species(420, seed=7)[400:], 0)])
def test_zero_shot_names_species_that_it_never_saw(tmp_path, species, seed):
    """Five times chance, on individuals of another seed; and on twenty species that are in no list."""
    write_guide(FieldGuide("new", species, photos=6, train=1, seed=seed), tmp_path / "birds")
    dataset = open_dataset(tmp_path / "birds").select("test")
    extractor = FeatureExtractor(load_model(SAMPLE), EmbedSettings(precision="fp32"), tmp_path)
    features = extractor.features(dataset)
    texts = extractor.class_embeddings(class_prompts("plain", dataset.classnames))
    correct = (features.image_features @ texts.T).argmax(axis=1) == features.labels
    assert correct.mean() >= 5 / len(species)


def test_a_generated_bird_is_recognised(tmp_path):
    """A head that was fitted on drawn training photos; chance is 1 in 24, and two thirds were seen on more pictures."""
    write_guide(FieldGuide("new", SPECIES, photos=6, train=5), tmp_path / "birds")
    train = open_dataset(tmp_path / "birds").select("train")
    extractor = FeatureExtractor(load_model(SAMPLE), EmbedSettings(precision="fp32"), tmp_path)
    features = extractor.features(train)
    head = build_head("linear", len(SPECIES)).fit(build_text_side(features.image_features, None, 1.0), train.labels)
    asked = [Picture(texts[0], picture_seed(0, texts[0], 0)) for texts in drawing_prompts(train, "auto")]
    settings = DrawSettings(steps=12, guidance=5.0)
    painter = Painter(load_pipeline(SAMPLE).pipeline, resolve_device("cpu"), settings, batch_size=24)
    drawn = extractor.encoder.encode_images([extractor.encoder.prepare(image) for _, image in painter.draw(asked)])
    named = head.predict(build_text_side(drawn, None, 1.0))
    assert np.mean(named == np.arange(len(SPECIES))) >= 0.4
