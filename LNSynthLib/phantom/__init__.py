"""The procedural abdomen: a CT with organs and lymph nodes that no patient had."""
