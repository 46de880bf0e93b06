"""Methods over features: pure arrays in and out, no models."""
