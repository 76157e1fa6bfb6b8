"""How good a model is, and which of its answers are to be trusted."""
