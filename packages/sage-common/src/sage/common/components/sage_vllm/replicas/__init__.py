"""One model in several engines: which one a call goes to, and what becomes of it if that dies."""
