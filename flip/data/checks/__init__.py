"""Checks of a dataset that need no model, by what they look at. Each module ends in its ``CHECKS``."""
