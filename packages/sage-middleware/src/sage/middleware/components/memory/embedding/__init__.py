"""Which embedder makes the vectors of a collection, and what it is given."""
