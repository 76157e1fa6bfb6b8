"""The service beside other servers (`python -m benchmarks.serving`), and what its parts cost."""
