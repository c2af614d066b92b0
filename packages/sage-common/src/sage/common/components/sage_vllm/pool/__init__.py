"""Which engine serves which calls, and how one engine is replaced by another."""
