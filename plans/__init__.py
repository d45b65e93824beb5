"""Experiment recipes; installed as `sam3d_nnunet.plans`."""
