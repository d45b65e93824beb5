"""The other methods of the paper."""
