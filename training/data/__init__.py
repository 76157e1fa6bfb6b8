"""From files to batches: found, checked, split, drawn, augmented."""
