"""A promptable 3-D network lifted from SAM, trained inside nnU-Net v2."""

# Nothing else belongs here: nnU-Net's class search imports this package on each look-up. setup.py reads the version.
__version__ = "0.1.0"
