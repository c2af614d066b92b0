"""A service as several processes of a cluster: which one has a call, and what if it dies."""
