"""How a record goes from one operator to the next: links, channels, what an error does to it."""
