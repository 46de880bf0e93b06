"""Labelled images: one reader for each layout, one decoder for every photo."""
