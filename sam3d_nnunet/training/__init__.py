"""Trainers that nnU-Net finds by name, and their data loader."""
