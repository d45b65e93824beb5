"""`sam3d demo`: the whole pipeline on a small synthetic data set."""
