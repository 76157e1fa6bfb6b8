"""From a run to a bundle, and to the variants of its graph."""
