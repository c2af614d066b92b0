"""Several copies of one thing: which of them a call goes to, and what is replayed if one dies."""
