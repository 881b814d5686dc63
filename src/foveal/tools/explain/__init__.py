"""What a network looks at: tools that work with any image model."""
