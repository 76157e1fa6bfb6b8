"""Measurements side by side with what a user would otherwise write or pick."""
