"""Getting a model from the hub into the registry, file by file."""
