"""Runs a model's graphs: sessions, what they run on, and what is looked at before."""
