"""What is noted of requests: metrics, access log, spans, kept images."""
