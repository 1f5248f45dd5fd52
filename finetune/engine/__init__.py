"""Additions to Lightning: DDP, FSDP2, loop state, precision, loggers."""
