"""Predicts under protocols, then measures; and runs whole comparisons."""
