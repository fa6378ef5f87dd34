"""What a CT or a mask is on disk and in memory: read, check, crop, resample, mark, draw."""
