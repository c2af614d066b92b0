"""Measuring how fast a model is on this machine."""
