"""Parts of an image that a prediction depends on, and what fine-tuning changed: pure functions of a model."""
