"""Stable Diffusion: checkpoints that cannot run code, drawing, augmentation, training; nothing else uses diffusers."""
