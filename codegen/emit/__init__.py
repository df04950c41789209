"""Emitters: from lowered kernels to the code that a target's driver loads."""
