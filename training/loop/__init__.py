"""A run: its configuration, the network's steps and epochs, what of it is saved."""
