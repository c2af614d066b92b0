"""What ``VLLMService.process`` can be asked to do: tasks on models of the registry, and scores."""
