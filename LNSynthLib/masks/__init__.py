"""Masks of nodes and organs: read, number, measure, compare, move between grids."""
