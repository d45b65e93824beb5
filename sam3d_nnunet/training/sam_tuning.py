"""SAMTuning: what all trainers share whose image encoder starts from SAM's weights."""

from pathlib import Path

import torch
from torch import nn

from sam3d_nnunet.network.sam3d import PRESETS
from sam3d_nnunet.network.weights import lift_sam, sam_checkpoint
from sam3d_nnunet.training.linear_decay import LinearDecay


class SAMTuning:
    """For a `PlannedTrainer` behind it: preset, SAM's weights and rates are those of the plan's block "sam3d".

    The network has an `image_encoder` and a buffer `initialized`; what is frozen doesn't require gradients.
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
        self.initial_lr = self.settings.optimizer.lr
        self.weight_decay = self.settings.optimizer.weight_decay
        self.gradient_clip = self.settings.optimizer.gradient_clip
        self.enable_deep_supervision = False
        self.grad_scaler = None  # the network computes in bfloat16, which needs none, or in float32

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LinearDecay]:
        """AdamW on what is tuned, linear decay (paper, Table 5)."""
        tuned = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(tuned, self.initial_lr, weight_decay=self.weight_decay)
        share = self.settings.optimizer.final_lr_share
        return optimizer, LinearDecay(optimizer, self.initial_lr, share, self.num_epochs)

    def on_train_start(self) -> None:
        """Load SAM's weights, unless the network has been loaded from a checkpoint."""
        if not self.was_initialized:
            self.initialize()
        self._load_sam_weights()
        super().on_train_start()

    def load_sam(self, encoder: nn.Module, path: Path) -> None:
        """Copy the weights of a SAM file into the encoder, in place: here lifted to 3-D."""
        lift_sam(encoder, path)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """There is none."""

    def _load_sam_weights(self) -> None:
        network = self.plain_network()
        if network.initialized:  # set by --c or -pretrained_weights
            return
        model = PRESETS[self.settings.preset].sam_model
        if model is not None:
            with self.first_rank_first():
                path = sam_checkpoint(model, self.settings.sam_checkpoint)
            if path is not None:
                self.load_sam(network.image_encoder, path)
            self.print_to_log_file(f"Image encoder starts from {path or 'random weights, as sam_checkpoint says'}")
        network.initialized.fill_(1)
