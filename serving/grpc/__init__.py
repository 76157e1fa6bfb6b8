"""gRPC: messages to the core and its answers back."""
