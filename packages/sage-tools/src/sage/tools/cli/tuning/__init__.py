"""Fine-tuning as a terminal shows it: what is planned, how far it is, what came of it."""
