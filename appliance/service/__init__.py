"""The use cases. Each records its intent in the catalog, acts on the pool, and records the result."""
