"""Several synthetic samples of one CT: its inputs, what changes, in place or as patches."""
