"""Segment images from prompts with a trained model."""
