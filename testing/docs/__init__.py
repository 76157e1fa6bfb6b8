"""The documentation as data: what is checked about it, and the site made from it."""
