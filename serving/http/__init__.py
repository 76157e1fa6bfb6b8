"""HTTP: bytes to the core and its answers back."""
