"""The split into training, validation and test images."""
