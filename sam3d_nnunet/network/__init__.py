"""The network. It knows torch, but nothing of nnU-Net."""

from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.network.sam3d import PRESETS, SAM3D, Embedding, build_sam3d, default_stride

__all__ = ["PRESETS", "SAM3D", "Embedding", "Prompts", "build_sam3d", "default_stride"]
