"""Checkpoints from the Hugging Face hub, or from its local cache: `unipic2-edge pull`. No torch here.

`layouts` says which files of a repository make a checkpoint, `repository` lists and fetches them, `hashes` checks
them, `refusals` turns what can go wrong into users' errors, and `pull` puts the checkpoint folder together.
"""
