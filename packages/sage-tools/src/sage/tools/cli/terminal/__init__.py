"""What a terminal shows: data, notes, tables, progress, and Ctrl-C."""
