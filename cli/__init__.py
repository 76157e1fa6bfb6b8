"""The `vgg19` command, which knows all other rooms and which none of them knows."""
