"""Argument handling shared by all functions: checks, working precision, rows and row weights, random draws, files."""
