"""What the library costs and how exact it is; every script writes what it measured to a file."""
