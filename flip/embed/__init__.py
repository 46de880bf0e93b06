"""From files to features: the cache, the stream of photos, the extractor, the table."""
