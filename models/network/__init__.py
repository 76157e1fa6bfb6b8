"""Networks in PyTorch: what one is, VGG-19, which layers train, what it looked at."""
