"""SAM3DAdapterTrainer trains the promptable network; `SAMTuning` is what all trainers share that start from SAM.

`PlannedAdamW` is the paper's optimizer, for any trainer.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.checkpoint import checkpoint

from sam3d_nnunet.network.sam3d import PRESETS, default_refinement
from sam3d_nnunet.network.weights import lift_sam, sam_checkpoint
from sam3d_nnunet.planning.networks import sam3d
from sam3d_nnunet.planning.settings import BLOCK, SAM3DSettings
from sam3d_nnunet.training.prompted_trainer import PromptedTrainer


class LinearDecay(LRScheduler):
    """Linear decay of the learning rate to a share of the initial one; nnU-Net's trainer steps it once an epoch."""

    def __init__(self, optimizer: Optimizer, initial_learning_rate: float, final_share: float, num_epochs: int) -> None:
        """
        Args:
            optimizer: whose learning rates are set.
            initial_learning_rate: of the first epoch.
            final_share: share of it that is left after the last epoch.
            num_epochs: length of the training.
        """
        self.initial_learning_rate = initial_learning_rate
        self.final_share = final_share
        self.num_epochs = num_epochs
        super().__init__(optimizer)

    def step(self, epoch: int = 0) -> None:
        """Set the learning rate of an epoch (0 is the first)."""
        learning_rate = self.initial_learning_rate * (1 - (1 - self.final_share) * epoch / self.num_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class PlannedAdamW:
    """Mixin before a `PlannedTrainer`: the optimizer of the plan's block "sam3d", for all tuned parameters."""

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
        self.initial_lr = self.settings.optimizer.lr
        self.weight_decay = self.settings.optimizer.weight_decay
        self.gradient_clip = self.settings.optimizer.gradient_clip

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LinearDecay]:
        """AdamW on the tuned parameters, with linear decay (paper, Table 5)."""
        tuned = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(tuned, self.initial_lr, weight_decay=self.weight_decay)
        share = self.settings.optimizer.final_lr_share
        return optimizer, LinearDecay(optimizer, self.initial_lr, share, self.num_epochs)


class SAMTuning(PlannedAdamW):
    """Mixin before a `PlannedTrainer`: preset, SAM's weights and optimizer are those of the plan's block "sam3d".

    The network needs an `image_encoder` and a buffer `initialized`. Frozen parameters don't require gradients.
    """

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
        self.enable_deep_supervision = False
        self.grad_scaler = None  # the network computes in bfloat16 or float32, which need none

    def on_train_start(self) -> None:
        """Load SAM's weights, unless the network has been loaded from a checkpoint."""
        if not self.was_initialized:
            self.initialize()
        self._load_sam_weights()
        super().on_train_start()

    def load_sam(self, encoder: nn.Module, path: Path) -> None:
        """Copy the weights of a SAM file into the encoder, in place; here the 3-D encoder."""
        lift_sam(encoder, path)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Nothing to do: these networks have none of nnU-Net's own. Ours has it in training mode (`LevelsLoss`)."""

    def _load_sam_weights(self) -> None:
        network = self.plain_network()
        if network.initialized:  # loaded by --c or -pretrained_weights
            if self.current_epoch == 0 and "start" in self.left_open(self.settings):  # nnU-Net doesn't hand on its file
                self.print_to_log_file(
                    f"The given weights are used with start {self.settings.start!r}. If they were trained with another "
                    f"one (see {BLOCK} in their plans.json; without the key: published), set that in the plan."
                )
            return
        model = PRESETS[self.settings.preset].sam_model
        if model is not None:
            with self.first_rank_first():
                path = sam_checkpoint(model, self.settings.sam_checkpoint)
            if path is not None:
                self.load_sam(network.image_encoder, path)
            self.print_to_log_file(f"Image encoder starts from {path or 'random weights, as sam_checkpoint says'}")
        network.initialized.fill_(1)


class LevelsLoss(nn.Module):
    """Deep supervision: the weighted mean of a loss over the levels of logits that a network returns in training."""

    def __init__(self, loss: nn.Module, weights: list[float]) -> None:
        """
        Args:
            loss: of logits and target.
            weights: one for each level.
        """
        super().__init__()
        self.loss = loss
        self.weights = weights

    def forward(self, output: Tensor | list[Tensor], target: Tensor) -> Tensor:
        """Of logits alone, or of all levels at the size of the target."""
        if isinstance(output, Tensor):
            return self.loss(output, target)
        # computed again for the gradient: what it needs of all levels at once is several times as large as the logits
        losses = [checkpoint(self.loss, x, target, use_reentrant=False, preserve_rng_state=False) for x in output]
        return sum(w * loss for w, loss in zip(self.weights, losses, strict=True)) / sum(self.weights)


class SAM3DAdapterTrainer(SAMTuning, PromptedTrainer):
    """Trains `SAM3D` with simulated prompts; preset, lengths and optimizer come from the plan's block "sam3d"."""

    build_network_architecture = staticmethod(sam3d)

    def initialize(self) -> None:
        """As nnU-Net's, with the loss for all levels of the network."""
        super().initialize()
        weights = self.plain_network().level_weights
        if len(weights) > 1:
            self.loss = LevelsLoss(self.loss, weights)

    @classmethod
    def left_open(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """The start of the preset, how clicks are drawn, and how masks are refined."""
        found = {"start": PRESETS[settings.preset].start, "click_map": "gaussian"}
        return super().left_open(settings) | found | {"refine": default_refinement(settings.clicks_carry_labels)}
