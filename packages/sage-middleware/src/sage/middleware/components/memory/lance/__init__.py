"""The tables of LanceDB behind a collection."""
