"""A server of one model: FastAPI, micro-batches, and limits on everything that comes in."""
