"""The same fine-tuning job, written as each tool's documentation shows it.

Each module is run as a process: `python -m benchmarks.contestants.NAME JOB.json RESULT.json`.
"""
