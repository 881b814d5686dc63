"""The server of examples/serve, over HTTP on this machine."""
