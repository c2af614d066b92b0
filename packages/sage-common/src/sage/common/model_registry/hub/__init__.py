"""Requests to the model hub, and what its errors mean."""
