"""AutomaticTrainer: nnU-Net's trainer for other networks, which segment without prompts."""

import inspect
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.planning.settings import BLOCK, SAM3DSettings, trained_settings
from sam3d_nnunet.training.planned_trainer import PlannedTrainer


class AutomaticTrainer(PlannedTrainer):
    """Trains a network with the lengths, batch size and share of foreground of `SAM3DAdapterTrainer`.

    Loss, augmentation, folds, precision, gradient clipping and validation are nnU-Net's. Arguments of the network that
    differ from its authors' are given in the plan's block "sam3d" under "networks", by name of the trainer:
    `{"networks": {"UXNet3DTrainer": {"depths": [1, 1, 1, 1]}}}`.

    The optimizer is AdamW with learning rate 4e-4 and weight decay 1e-5, as in the released code of 3DSAM-adapter,
    except where the trainer of a method follows its authors. For all methods the learning rate falls polynomially to 0,
    as in nnU-Net; in the released code it falls linearly to a hundredth.
    """

    learning_rate = 4e-4
    weight_decay = 1e-5
    adam_epsilon = 1e-8
    deep_supervision_scales: list[list[float]] | None = None
    """Scale along (d, h, w) of each output, if the authors train on several resolutions; the first is 1."""
    deep_supervision_weights: tuple[float, ...] | None = None
    """Weights of these outputs in the loss. None: as in nnU-Net, halved from each to the next, 0 for the last."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net reads this signature)
    ) -> None:
        """Arguments and errors are those of `PlannedTrainer`."""
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = self.learning_rate
        self.weight_decay = type(self).weight_decay  # nnU-Net's trainer has set its own
        self.enable_deep_supervision = self.deep_supervision_scales is not None

    @staticmethod
    def make_network(input_channels: int, num_classes: int, patch_size: tuple[int, int, int], **arguments) -> nn.Module:
        """The trainer's network, (B, C, D, H, W) -> (B, K, D, H, W), which only sees patches of that size.

        With deep supervision it returns a list of outputs in training mode. Each trainer overrides this method; its
        keyword arguments are those that a plan may give, with the authors' values as defaults.
        """
        raise NotImplementedError

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network with the arguments of the plan's block, and random weights.

        Raises:
            SAM3DError: no network can be built from these arguments.
        """
        settings = trained_settings(configuration_manager.configuration.get(BLOCK, {}), "the plans")
        arguments = cls.network_arguments(settings)
        patch_size = tuple(configuration_manager.patch_size)
        try:
            return cls.make_network(num_input_channels, num_output_channels, patch_size, **arguments)
        except Exception as e:  # an unusable value can break any line of a network
            given = settings.networks.get(cls.__name__)
            if not given or isinstance(e, (MemoryError, torch.OutOfMemoryError)):
                raise
            raise SAM3DError(
                f"The plan's block '{BLOCK}' gives {given} under networks.{cls.__name__}, which make no network "
                f"for patches of {patch_size}: {e}"
            ) from e

    @classmethod
    def network_arguments(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """The arguments that the plan gives for this trainer's network.

        Raises:
            SAM3DError: the network has no such argument.
        """
        arguments, known = settings.networks.get(cls.__name__, {}), cls._network_defaults()
        for name in arguments:
            if name not in known:
                raise SAM3DError(
                    f"The plan's block '{BLOCK}' gives {name!r} under networks.{cls.__name__}, whose network has no "
                    f"such argument; it has {', '.join(known)}."
                )
        return arguments

    @classmethod
    def network_facts(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """All arguments of the network that a plan may give, with the values that it gives or the authors'."""
        defaults, given = cls._network_defaults(), cls.network_arguments(settings)
        return {name: given.get(name, value) for name, value in defaults.items()}

    @classmethod
    def _network_defaults(cls) -> dict[str, Any]:
        """Names of the arguments of the network that a plan may give, with their values if it doesn't."""
        parameters = list(inspect.signature(cls.make_network).parameters.values())[3:]
        return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """AdamW with nnU-Net's schedule."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay, eps=self.adam_epsilon
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's validation step; with deep supervision its loss is that of the highest resolution alone."""
        if not self.enable_deep_supervision:
            return super().validation_step(batch)
        network = self.network
        self.network = lambda image: [network(image)]  # one output, since the network is not in training mode
        try:
            return super().validation_step(batch)
        finally:
            self.network = network

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Nothing to switch: the networks have several outputs in training mode only."""

    def plot_network_architecture(self) -> None:
        """No plot: hiddenlayer can't draw attention."""

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        if self.deep_supervision_weights is not None:
            loss.weight_factors = self.deep_supervision_weights
        return loss

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        if self.deep_supervision_scales is None:
            return None
        patch_size = self.configuration_manager.patch_size
        # at least one voxel of each side, where nnU-Net would round to none
        return [[max(s, 1 / side) for s, side in zip(scale, patch_size)] for scale in self.deep_supervision_scales]
