"""TensorRT engines: built in a process of their own, loaded, run and timed."""
