"""Segmentation from prompts with a trained model."""
