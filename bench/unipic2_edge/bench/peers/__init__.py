"""Peers: whatever makes a picture, or a denoising step, of the same words and the same noise, to be compared."""
