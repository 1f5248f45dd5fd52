"""Read untrusted files safely; write files atomically."""
