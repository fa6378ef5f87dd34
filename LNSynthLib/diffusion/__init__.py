"""Noise schedules and samplers: plain functions, one equation each."""
