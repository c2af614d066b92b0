"""The mail between this process and those of a cluster: calls, results and questions as bytes."""
