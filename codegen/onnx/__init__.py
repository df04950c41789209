"""The model as ONNX graphs, for runtimes other than libmossnet."""
