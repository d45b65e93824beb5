"""The network; knows torch, nothing of nnU-Net."""

from sam3d_nnunet.network.sam3d import PRESETS, SAM3D, Embedding, default_stride

__all__ = ["PRESETS", "SAM3D", "Embedding", "default_stride"]
