"""Fine-tuning VGG-19 offline. Never imported by serving."""
