"""`sam3d benchmark`: everything from raw images to one table."""
