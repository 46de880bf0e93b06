"""The words that options accept, and other fixed names. Standard library only: the command line reads them at start.

A head, a layout or a sampler is one file and one word here; a test holds the registries to these tuples.
"""

from __future__ import annotations

DEFAULT_MODEL = "ViT-B-32/openai"

#: Models that a shell offers to complete; ``flip models`` lists all.
MODELS = (
    *("sample", DEFAULT_MODEL, "ViT-B-16/openai", "ViT-L-14/openai", "ViT-L-14-336/openai", "RN50/openai"),
    *("ViT-B-32/laion2b_s34b_b79k", "ViT-B-16/laion2b_s34b_b88k", "ViT-L-14/laion2b_s32b_b82k"),
    *("ViT-H-14/laion2b_s32b_b79k", "ViT-B-32/datacomp_xl_s13b_b90k", "ViT-B-16/datacomp_xl_s13b_b90k"),
    *("ViT-L-14/datacomp_xl_s13b_b90k", "ViT-B-16-SigLIP2/webli", "ViT-L-16-SigLIP2-256/webli"),
    *("hf-hub:imageomics/bioclip", "hf-hub:imageomics/bioclip-2"),
)

#: The embedded field guide, as ``--data``, ``--model`` and ``--ckpt`` call it.
SAMPLE = "sample"
SAMPLE_DATA = (SAMPLE, "sample-train")

SPLITS = ("train", "val", "test")
#: In the order in which they are recognised; see ``flip.data.layout``.
LAYOUTS = (
    "embeddings",
    "parquet-images",
    "nabirds",
    "cub",
    "inaturalist",
    "flowers-102",
    "oxford-pets",
    "fgvc-aircraft",
    "stanford-cars",
    "stanford-dogs",
    "food-101",
    "birdsnap",
    "webdataset",
    "split-folders",
    "images-folder",
    "manifest",
    "class-folders",
)
#: Layouts of embeddings that ``flip embed -o`` writes.
LAYOUTS_OUT = ("flip", "clip-retrieval")
HEADS = ("auto", "ridge", "mlp", "linear", "svm-linear", "svm-rbf", "gda", "tip", "ensemble")
TEXT_SIDES = ("none", "prompts", "captions")
PROMPTS = ("plain", "paper", "bird", "coarse", "clip", "taxon")
#: Chooses among them on training photos.
AUTO_PROMPTS = "auto"
VOTES = ("uniform", "softmax")
INDEXES = ("auto", "flat", "ivf", "hnsw")
SAMPLERS = ("ddim", "dpm++", "euler")
#: Kinds of ``--plot``.
PLOTS = ("confusion", "calibration", "coverage", "few-shot")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
ENGINES = ("local", "ray")
DECODINGS = ("auto", "exact", "fast")

#: What ``flip data check`` looks for, in the order in which it lists them.
CHECKS = (
    *("unreadable", "truncated", "copies-across-splits", "copies-across-classes", "copies"),
    *("near-copies-across-splits", "near-copies-across-classes", "near-copies"),
    *("labels-in-doubt", "outliers", "flat", "dark", "blurred", "tiny", "huge", "wrong-suffix"),
    *("few-photos", "class-names", "captions"),
)
