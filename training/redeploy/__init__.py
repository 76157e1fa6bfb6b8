"""The job that retrains on what has come, and puts it into production if it deserves that."""
