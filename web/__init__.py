"""What the pages of the service and of the review share: how their files are sent, and a style."""
