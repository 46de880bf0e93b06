"""The dual encoder: models, prompts, and embeddings through the cache."""
