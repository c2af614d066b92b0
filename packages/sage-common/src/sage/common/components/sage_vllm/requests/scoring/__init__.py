"""Scores, classes and rewards: from what a caller passes to what an engine is asked, and back."""
