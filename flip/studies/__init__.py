"""Several methods on one dataset, compared."""
