"""Check a config before anything is built or written."""
