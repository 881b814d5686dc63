"""A network as a file that runs elsewhere, checked against the network at several sizes."""
