"""Qwen2.5-VL: run with explicit positions, and a small one taught about shapes."""
