"""What the panels decide, without Qt: nodes of the scene, edits, jobs, reviews. Runs in plain Python with slicer-core."""
