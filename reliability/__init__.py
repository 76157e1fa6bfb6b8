"""Faults, many times over: processes that are killed, and what they left. See docs/reliability.md."""
