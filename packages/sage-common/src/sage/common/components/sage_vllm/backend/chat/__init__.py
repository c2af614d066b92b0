"""Conversations: how they become prompts, and what their answers consist of."""
