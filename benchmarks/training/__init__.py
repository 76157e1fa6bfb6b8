"""Training: beside other loops, and which strategy, how many labels, how large a data set."""
