"""Engines and models for tests, documents and examples."""
