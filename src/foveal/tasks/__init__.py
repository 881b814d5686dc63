"""Heads, losses and figures; one task a module or folder."""
