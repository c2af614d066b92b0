"""Answers that are determined: what they follow from, and a folder that keeps them."""
