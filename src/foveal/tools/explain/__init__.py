"""Seeing through a network: what it computes on the way, and what of the image decides."""
