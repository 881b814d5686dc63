"""The command line: the only reader of its arguments, and the only writer to the terminal."""
