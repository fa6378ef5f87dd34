"""From a case and a generator to synthetic pairs: patches with changed nodes, nodes in place, provenance, the demo."""
