"""The networks inside the generators."""
