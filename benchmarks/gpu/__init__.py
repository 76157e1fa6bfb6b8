"""What this project does on an NVIDIA GPU, checked and measured on the card: `make gpu-check`.

Every step is a process with a time limit of its own and writes its figures as they come, so that a
machine that is taken away after some minutes leaves what was found by then.
"""
