"""Registered models: the store, which of them is production, copies elsewhere. Without torch."""
