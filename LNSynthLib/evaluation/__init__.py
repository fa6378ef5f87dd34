"""How good segmentations and synthetic images are, in the paper's measures, with intervals and tests."""
