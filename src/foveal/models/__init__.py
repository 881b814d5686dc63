"""The five families, on one skeleton."""
