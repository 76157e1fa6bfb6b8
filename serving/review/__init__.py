"""The page of reviews inside the service: captured images, what the served model makes of them."""
