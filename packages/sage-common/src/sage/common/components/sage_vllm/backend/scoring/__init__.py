"""What engines need for scores, classes and the likelihood of given texts."""
