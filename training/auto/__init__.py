"""Strategy `auto`: probe, train, unfreeze more while it pays, and say why."""
