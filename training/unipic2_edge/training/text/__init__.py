"""The words of the shapes world: its tokenizers and text encoders."""
