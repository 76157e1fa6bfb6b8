"""The inputs of the first layer that trains, computed once and cached."""
