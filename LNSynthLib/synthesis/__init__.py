"""From a case and a generator to synthetic pairs: nodes in place in a CT, patches with changed nodes."""
