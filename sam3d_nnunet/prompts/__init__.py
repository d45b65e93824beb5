"""Clicks: the Prompt type, drawing them from label maps, files and coordinates; knows nothing of nnU-Net."""

from sam3d_nnunet.prompts.prompt import Prompt

__all__ = ["Prompt"]
