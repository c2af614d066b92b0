"""Operators with parallelism as workers on a cluster, fed with chunks of records."""
