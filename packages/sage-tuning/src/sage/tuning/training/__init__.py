"""The training itself: the one folder that imports torch, transformers, TRL and PEFT."""
