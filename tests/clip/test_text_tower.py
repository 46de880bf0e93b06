"""Texts are cut to the longest of their batch, which changes nothing but the time it takes."""

import numpy as np
import open_clip
import pytest
import torch

from flip.clip.model import load_model
from flip.clip.text_tower import encode_text, pooled_positions
from flip.training.clip.step import PairEncoder
from tests.conftest import TINY_CONFIG

TEXTS = ["a fox", "", "a photo of a very large blue jay, a type of bird", "bird", "word " * 40]
COCA = {"context_length": 15, "embed_cls": True, "output_tokens": True}

#: Whether texts are cut, the class, and changes of ``text_cfg``.
TOWERS = {
    "CLIP": (True, open_clip.CLIP, {}),
    "CLIP with a bias": (True, open_clip.CLIP, {"proj_bias": True}),
    "CLIP that pools the end of text": (True, open_clip.CLIP, {"pool_type": "eos", "eos_id": 49407}),
    "custom text": (True, open_clip.CustomTextCLIP, {}),
    "custom text that pools the end": (True, open_clip.CustomTextCLIP, {"pool_type": "eos", "eos_id": 49407}),
    "CLIP that pools the last": (False, open_clip.CLIP, {"pool_type": "last"}),
    "both ways": (False, open_clip.CLIP, {"no_causal_mask": True}),
    "custom text, both ways": (
        False,
        open_clip.CustomTextCLIP,
        {"no_causal_mask": True, "pool_type": "last"},
    ),
    "CoCa": (False, open_clip.CoCa, COCA),
}


def network(kind, text):
    config = TINY_CONFIG["model_cfg"] | {"text_cfg": TINY_CONFIG["model_cfg"]["text_cfg"] | text}
    more = {"multimodal_cfg": config["text_cfg"]} if kind is open_clip.CoCa else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = kind(**config, **more).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return made


def lengths_seen(made):
    """The sequence lengths that the transformer gets from now on."""
    seen = []
    transformer = made.transformer if isinstance(made, open_clip.CLIP) else made.text.transformer
    transformer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
    return seen


@pytest.mark.parametrize("chosen", [[0], [1, 3], [0, 1, 2, 3], [4]], ids=str)
@pytest.mark.parametrize("name", TOWERS)
def test_embeddings_are_the_networks_own(name, chosen):
    cut, kind, text = TOWERS[name]
    made = network(kind, text)
    context = text.get("context_length", 16)
    tokens = open_clip.SimpleTokenizer(context_length=context)([TEXTS[i] for i in chosen])
    longest = max(int((row != 0).sum()) for row in tokens)
    with torch.inference_mode():
        theirs = made.encode_text(tokens, normalize=True)
        seen = lengths_seen(made)
        ours = encode_text(made, tokens)
    assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-5)
    full = context + (kind is open_clip.CoCa)
    assert seen == [longest if cut else full]


@pytest.mark.parametrize("name", ["CLIP", "custom text", "CLIP that pools the end of text"])
def test_gradients_are_the_same(name):
    _, kind, text = TOWERS[name]
    tokens = open_clip.SimpleTokenizer(context_length=16)(TEXTS[:4])
    gradients = []
    for encode in (encode_text, lambda made, tokens: made.encode_text(tokens, normalize=True)):
        made = network(kind, text)
        encode(made, tokens)[:, :5].sum().backward()
        gradients.append({n: p.grad.numpy() for n, p in made.named_parameters() if p.grad is not None})
    ours, theirs = gradients
    assert ours.keys() == theirs.keys()
    assert any("positional_embedding" in name for name in ours)
    for name, gradient in theirs.items():
        assert ours[name] == pytest.approx(gradient, abs=1e-5), name


def test_the_network_keeps_its_positions():
    made = network(open_clip.CLIP, {})
    before, mask = made.positional_embedding, made.attn_mask
    encode_text(made, open_clip.SimpleTokenizer(context_length=16)(["a"]))
    assert made.positional_embedding is before
    assert made.attn_mask is mask
    assert before.shape == (16, 64)


def test_texts_are_sorted_by_length_and_come_back_in_their_order(tiny_model, monkeypatch):
    monkeypatch.setattr("flip.clip.encoder.TEXT_BATCH", 4)
    monkeypatch.setattr("flip.clip.encoder.TEXTS_SORTED", 12)
    model = load_model(str(tiny_model))
    words = np.random.default_rng(0).integers(0, 12, 30)
    texts = [f"{i} " + "bird " * n for i, n in enumerate(words)]
    seen = lengths_seen(model.network)
    ours = model.encode_texts(texts)
    with torch.inference_mode():
        theirs = model.network.encode_text(model.tokenize(texts), normalize=True).numpy()
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert sum(seen[:-1]) < 0.8 * 16 * 8
    assert seen[:3] == sorted(seen[:3])


def test_training_cuts_texts_too():
    made = network(open_clip.CLIP, {})
    seen = lengths_seen(made)
    tokens = open_clip.SimpleTokenizer(context_length=16)(TEXTS[:2])
    PairEncoder(made)(torch.zeros(2, 3, 32, 32), tokens)
    assert seen == [4]


def test_an_empty_batch_has_no_position(tiny_model):
    made = load_model(str(tiny_model)).network
    assert encode_text(made, torch.zeros(0, 16, dtype=torch.int64)).shape == (0, 32)
    assert pooled_positions(made, torch.zeros(0, 16, dtype=torch.int64)).shape == (0,)
