"""One training loop for every generator: data, moving average, checkpoints, resume."""
