"""The commands of sage llm model."""
