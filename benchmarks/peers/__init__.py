"""The same service, written as each framework's documentation shows it.

Each runs in a virtual environment of its own, made from the `requirements.txt` beside it. The
environment tells them MODEL_PATH (a bundle's model.onnx), PORT and WORKERS (how many call the
model); what they share is `common`.
All form batches of up to 32 images; where a framework has a fixed wait for others, it is 5 ms,
as in this project.
"""
