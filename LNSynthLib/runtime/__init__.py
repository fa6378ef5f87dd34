"""What everything stands on: files that are whole or absent, locks, events, cancellation, errors, devices, seeds."""
