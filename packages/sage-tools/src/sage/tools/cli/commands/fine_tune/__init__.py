"""`sage llm fine-tune` and the commands on its jobs."""
