"""A model's files: what they hold, read, checked, written, signed. Without torch."""
