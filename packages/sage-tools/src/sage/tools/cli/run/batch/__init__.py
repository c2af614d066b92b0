"""A file of records in, a file of answers out, and what lies beside it."""
