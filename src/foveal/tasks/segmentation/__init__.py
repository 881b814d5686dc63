"""A class for every pixel: heads, losses, figures."""
