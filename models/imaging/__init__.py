"""From bytes to pixels, the same in training and serving. Without torch."""
