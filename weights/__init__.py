"""Checkpoints: reading, name tables, quantisation, the PyTorch reference and the demo model."""
