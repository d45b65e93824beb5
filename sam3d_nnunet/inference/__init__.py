"""Prediction from clicks."""
