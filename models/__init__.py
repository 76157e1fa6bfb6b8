"""What a model is: its spec, image rule, files and store. No training loop, no server."""
