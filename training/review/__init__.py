"""What a person is to look at next, and what each of their labels changes."""
