"""Fine-tuning: what both kinds share, and the two loops."""
