"""From checkpoint to bundle: ONNX graphs without weights, shared weights, host tables, and the proof of it."""
