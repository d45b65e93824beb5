"""The trainer of Swin-UNETR (Hatamizadeh et al., BrainLes 2021, arXiv 2201.01266)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from monai.networks.nets import SwinUNETR
from torch import Tensor, nn

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer
from sam3d_nnunet.baselines.wrappers import Padded, SegLayers
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import listing
from sam3d_nnunet.network.checkpoint_files import read_checkpoint


class SwinUNETRTrainer(AutomaticTrainer):
    """Trains MONAI's Swin-UNETR. Patches of any size are padded to multiples of 32.

    AdamW with learning rate 1e-4 and weight decay 1e-5, as its authors prescribe (main.py of SwinUNETR/BTCV and
    /BRATS21 in Project-MONAI/research-contributions). They use a warm-up and a cosine schedule; here the learning rate
    falls as for all methods. The comparison in 3DSAM-adapter's paper used 4e-4.

    A fresh training starts from the encoder's self-supervised weights (Tang et al., CVPR 2022, arXiv 2111.14791:
    model_swinvit.pt) if the plan names their file:
    `{"networks": {"SwinUNETRTrainer": {"self_supervised_weights": "/path/model_swinvit.pt"}}}`.
    """

    learning_rate = 1e-4

    @staticmethod
    def make_network(
        input_channels: int,
        num_classes: int,
        patch_size: tuple[int, int, int],
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        use_checkpoint: bool = False,
        self_supervised_weights: str | None = None,
    ) -> nn.Module:
        """MONAI's network behind a padding; the self-supervised weights are loaded when training starts."""
        if not isinstance(self_supervised_weights, (str, type(None))):
            raise TypeError(f"self_supervised_weights must be a path, not {self_supervised_weights!r}")
        network = SwinUNETR(
            input_channels,
            num_classes,
            depths=depths,
            num_heads=num_heads,
            feature_size=feature_size,
            use_checkpoint=use_checkpoint,
        )
        network.out = SegLayers(network.out)
        padded = Padded(network, (32, 32, 32))
        # in the state dict, so that a continued training, or one from other weights, keeps its weights
        padded.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))
        return padded

    def on_train_start(self) -> None:
        """Load the encoder's self-supervised weights, unless the network has been loaded from a checkpoint."""
        if not self.was_initialized:
            self.initialize()
        network = self.plain_network()
        path = self.network_arguments(self.settings).get("self_supervised_weights")
        if path is not None and not network.initialized:
            load_self_supervised(network.network.swinViT, path)
            self.print_to_log_file(f"Encoder starts from {path}")
        network.initialized.fill_(1)
        super().on_train_start()


def load_self_supervised(encoder: nn.Module, path: str | Path) -> None:
    """Copy self-supervised weights into the Swin transformer of MONAI's Swin-UNETR, in place.

    MONAI's own `SwinUNETR.load_from` would stop in the middle, at the first tensor that doesn't fit.

    Args:
        encoder: the network's `swinViT`.
        path: a file with the authors' names of tensors, with or without the prefix "module.", under "state_dict" or at
            the top level. Heads of the self-supervised tasks are ignored.

    Raises:
        SAM3DError: the file can't be read, lacks tensors of the encoder, or has some of another shape.
    """
    checkpoint = read_checkpoint(path)
    found = checkpoint.get("state_dict", checkpoint)
    if not isinstance(found, Mapping):
        raise SAM3DError(f"The self-supervised weights {path} hold no tensors by name under 'state_dict'.")
    tensors = {_our_name(str(name)): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    expected = encoder.state_dict()
    missing = [name for name in expected if name not in tensors]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = [
        f"{title}: {listing(names, 5)}" for title, names in (("missing", missing), ("other shape", shapes)) if names
    ]
    if problems:
        raise SAM3DError(
            f"The self-supervised weights {path} don't fit Swin-UNETR's encoder. {'; '.join(problems)}. "
            "Name a file made for this feature size and number of input channels, or none."
        )
    encoder.load_state_dict({name: tensors[name] for name in expected})


def _our_name(name: str) -> str:
    name = re.sub(r"^(module\.)?(swinViT\.)?", "", name)
    return re.sub(r"\.mlp\.fc([12])\.", r".mlp.linear\1.", name)
