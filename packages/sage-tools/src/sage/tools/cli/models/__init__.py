"""Choosing and showing the models of the registry."""
