"""What a person reads of a run: a page with plots, and the model card."""
