"""TensorIR generators for groups of threads, one file per kernel class."""
