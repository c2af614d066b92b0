"""A chat in a terminal: what it is at, its commands, its loop."""
