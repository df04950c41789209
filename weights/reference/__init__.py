"""The plain PyTorch MossNet: the oracle that every other implementation in this project is judged by."""
