"""TunedSAMTrainer: nnU-Net's trainer for the paper's comparison of ways to tune SAM's encoder."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer
from sam3d_nnunet.network.sam3d import PRESETS
from sam3d_nnunet.network.weights import sam_checkpoint
from sam3d_nnunet.planning.settings import SAM3DSettings
from sam3d_nnunet.training.linear_decay import LinearDecay


class TunedSAMTrainer(AutomaticTrainer):
    """Trains a `TunedSAM` as `SAM3DAdapterTrainer` trains ours: preset, precision, rates and clipping from the plan.

    All methods so start from the same weights and train alike; only what is tuned differs.
    """

    paper_millions: float
    """Millions of parameters tuned in the encoder, as the paper counts them for ViT-B."""

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
        self.grad_scaler = None  # the network computes in bfloat16, which needs none, or in float32

    @classmethod
    def network_arguments(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """What the plan says of SAM, and what it gives for this trainer's network.

        Raises:
            SAM3DError: the network has no such argument.
        """
        sam = settings.model_dump(include={"preset", "stride", "precision", "activation_checkpointing"})
        return sam | super().network_arguments(settings)

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
        count = tuned_parameters(self.plain_network().image_encoder)
        paper = f"the paper counts {self.paper_millions:.2f} M for ViT-B"
        self.print_to_log_file(f"Tuned in the image encoder: {count / 1e6:.2f} M parameters; {paper}")
        super().on_train_start()

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's, with the plan's gradient clipping."""
        image, target = (batch[name].to(self.device, non_blocking=True) for name in ("data", "target"))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.network(image), target)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.optimizer.gradient_clip)
        self.optimizer.step()
        return {"loss": loss.detach().cpu().numpy()}

    def load_sam(self, encoder: nn.Module, path: Path) -> None:
        """Copy the weights of a SAM file into the encoder, in place."""
        encoder.load_sam(path)

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


def tuned_parameters(module: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
