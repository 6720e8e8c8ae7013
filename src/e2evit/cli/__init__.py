"""The `e2evit` command and the mains of `scripts/`."""
