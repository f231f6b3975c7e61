"""Acceptance of a device: every step in a process of its own, recorded as passed, failed or skipped, and resumed."""
