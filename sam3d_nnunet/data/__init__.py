"""Data sets and folds of the paper, brought into nnU-Net's layout."""
