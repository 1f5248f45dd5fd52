"""Changes of training samples, and mixtures of several."""
