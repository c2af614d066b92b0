"""What callers ask for and what they get: prompts, options, results, streams."""
