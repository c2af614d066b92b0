"""One module per command of `sage`."""
