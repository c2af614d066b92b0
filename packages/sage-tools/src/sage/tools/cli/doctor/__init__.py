"""What `sage llm doctor` looks at."""
