"""Kills processes at every step, or at random ones, and looks at what they left."""
