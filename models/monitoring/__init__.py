"""What a model does in production, in numbers: constant in memory, summed over processes."""
