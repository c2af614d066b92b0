"""The dataset: what its lines are rendered as, checked in full, and split; without torch."""
