"""The network in PyTorch: VGG-19, which of its layers train, what it looked at."""
