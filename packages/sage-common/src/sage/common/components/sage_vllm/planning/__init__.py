"""Whether an engine fits a device, told from a model's files before anything is loaded."""
