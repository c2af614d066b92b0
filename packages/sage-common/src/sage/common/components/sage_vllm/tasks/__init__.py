"""What ``VLLMService.process`` can be asked to do, and the tasks on the registry's models."""
