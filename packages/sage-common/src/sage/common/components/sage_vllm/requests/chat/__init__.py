"""What callers say of conversations: templates, thinking, tools, classes for answers."""
