"""What is left of a run for people to look at."""
