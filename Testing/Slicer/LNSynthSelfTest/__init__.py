"""Self test of the module in the real application: its steps, and what they need to wait, look and take pictures."""
