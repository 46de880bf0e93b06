"""Fine-tune a diffusion model on the captions of a dataset."""
