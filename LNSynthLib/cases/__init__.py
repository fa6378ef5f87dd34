"""Data sets of cases: import, fetch, split, keep patients apart, prepare."""
