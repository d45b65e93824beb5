"""`sam3d serve`: a model behind nnInteractive's protocol, for 3D Slicer, napari, Python clients and a page."""
