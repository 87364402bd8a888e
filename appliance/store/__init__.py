"""The store: assembles array, mirror, cache and pool, keeps their rules, and says how they are."""
