"""A network in 8-bit integers, judged by held-out images, layers that hurt left as they are."""
