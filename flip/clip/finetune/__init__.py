"""Contrastive fine-tuning of a dual encoder on labelled photos (FLYP: Goyal et al., CVPR 2023)."""

from flip.clip.finetune.pipeline import FinetuneResult, finetune

__all__ = ["FinetuneResult", "finetune"]
