"""What consumes a finished model."""
