"""Measures predictions and makes tables and figures of them: reads files, writes files, runs no model."""
