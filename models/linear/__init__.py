"""Linear classifiers of frozen features, fitted in closed form: NumPy alone."""
