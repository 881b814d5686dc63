"""Pure functions on tensors; nothing here knows of nn.Module."""
