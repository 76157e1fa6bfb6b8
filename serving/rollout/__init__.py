"""What is tried beside production: a version in its shadow, or a canary."""
