"""What a run has done so far: how it is counted, and how it is told as data."""
