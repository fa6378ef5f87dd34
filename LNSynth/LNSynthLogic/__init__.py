"""What the panels decide, without Qt: scene nodes, edits, jobs, reviews. Runs in plain Python with slicer-core."""
