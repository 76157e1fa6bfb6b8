"""Fine-tuning VGG-19 offline, and the `vgg19` command. Never imported by serving."""
