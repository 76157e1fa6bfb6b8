"""What a linear classifier makes of the frozen features, depth by depth, and of the labels."""
