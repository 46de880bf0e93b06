"""Classifiers over features: zero-shot, k nearest neighbours, and heads; arrays in and out, no models."""
