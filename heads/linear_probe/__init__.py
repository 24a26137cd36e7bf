"""One linear layer over feature maps."""
