"""What every function does to its arguments: checks, working precision, rows and counts, draws, files."""
