"""Predicts under protocols, then measures."""
