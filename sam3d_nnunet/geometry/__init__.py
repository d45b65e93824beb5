"""Coordinates: the world, the image and the preprocessed grid, with boxes and label maps on them."""
