"""The inference service. Imports nothing of torch and nothing of training."""

__version__ = "0.1.0"
