"""TensorIR generators, one file per kernel class."""
