"""The shapes world: pictures of coloured shapes, their captions and edits, and the verifier that judges them.

Pure numpy and scipy, no torch: it is training data, reward, quality metric and demo at once.
"""
