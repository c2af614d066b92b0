"""What this machine has: processors, GPUs, memory, a build of vLLM."""
