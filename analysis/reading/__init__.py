"""A run directory as DataFrames."""
