"""Operators that are ``async def``: the loop of a run, and the coroutines on it."""
