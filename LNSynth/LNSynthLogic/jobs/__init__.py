"""Work beside Slicer: child processes, the batch and its record, the commands they run."""
