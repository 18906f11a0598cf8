"""Side-by-side measurements of speed, memory and values: ``python -m benchmarks``."""
