"""What is kept of files that have been read: facts, pixels, records."""
