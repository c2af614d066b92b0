"""What is made of log-probabilities: how likely a text is, and the likeliest texts."""
