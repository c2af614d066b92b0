"""Models with a head that scores or classifies."""
