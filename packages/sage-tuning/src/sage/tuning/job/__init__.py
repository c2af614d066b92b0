"""A job: its folder as its process writes it, and the start of that process."""
