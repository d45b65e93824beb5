"""Prompts drawn from label maps: for training, for evaluation protocols, and as corrections."""
