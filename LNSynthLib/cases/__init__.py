"""What a case is on disk: read, check, crop, resample, window; data sets, importers and the phantom."""
