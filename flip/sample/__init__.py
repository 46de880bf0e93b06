"""The embedded field guide: drawn birds, and the small models that come with the package."""
