"""What the demo model is taught: families of questions, and their answers."""
