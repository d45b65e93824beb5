"""What a prompt is, and its files. Nothing here imports nnU-Net."""

from sam3d_nnunet.prompts.prompt import Prompt

__all__ = ["Prompt"]
