"""Answers requests: decode, batch, run, explain. Knows no transport."""
