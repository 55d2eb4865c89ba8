"""Exports of a checkpoint: ONNX, TensorRT, the dense equivalent."""
