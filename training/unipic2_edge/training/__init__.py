"""Trains UniPic2 models: the model classes, the shapes world, recipes and the loop that runs them."""
