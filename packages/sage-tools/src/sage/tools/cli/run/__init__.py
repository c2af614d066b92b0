"""`sage llm run`: a model in this process, for a chat, one prompt or a file of them."""
