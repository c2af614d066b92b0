"""Pictures in prompts: which may be read, how they are read, and where they stand."""
