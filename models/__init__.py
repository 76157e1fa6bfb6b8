"""What a model is: its spec, its image rule, its files and its store. No training loop, no server."""
