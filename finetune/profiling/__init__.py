"""Cost, memory and batch size of a training step."""
