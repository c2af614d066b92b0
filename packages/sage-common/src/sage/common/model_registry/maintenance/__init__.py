"""Keeping a registry in order: verify, repair, update, prune, delete."""
