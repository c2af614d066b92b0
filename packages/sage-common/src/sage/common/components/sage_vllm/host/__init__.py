"""The process that holds an engine, and those that it starts: memory, environment, end."""
