"""The input of a generator: anatomy and nodes as channels; how nodes change, where they fit, what shapes they have."""
