"""Samples on disk: where each came from, the verdicts on it, and the export of those accepted."""
