"""Boxes and masks of objects: heads, losses, figures."""
