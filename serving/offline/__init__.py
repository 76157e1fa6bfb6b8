"""Classifies files without a server (`vgg19 predict`)."""
