"""Raw data sets, folds, and published data sets in nnU-Net's layout."""
