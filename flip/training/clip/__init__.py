"""Contrastive fine-tuning of a dual encoder on labelled photos (FLYP: Goyal et al., CVPR 2023)."""
