"""Targets as data, and libmossnet, which runs models on them."""
