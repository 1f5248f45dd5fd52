"""What `benchmarks/recipes.py` compares: data sets, a loop with a clock, and recipes written in it."""
