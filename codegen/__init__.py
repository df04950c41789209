"""From a model to a model file: capture, TensorIR, schedules, code, plan, package."""
