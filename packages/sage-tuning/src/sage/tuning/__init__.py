"""Fine-tuning: train with TRL and PEFT, verify in vLLM, register what is better."""
