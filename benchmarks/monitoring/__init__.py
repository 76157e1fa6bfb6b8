"""A model in production: what drift, a shadow and a canary find, and what they cost."""
