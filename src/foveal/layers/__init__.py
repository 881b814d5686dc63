"""Modules that at least two families use identically; one idea a file."""
