"""TunedSAMTrainer: nnU-Net's trainer for the paper's comparison of ways to tune SAM's encoder."""

from pathlib import Path
from typing import Any

from torch import nn

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer
from sam3d_nnunet.planning.settings import SAM3DSettings
from sam3d_nnunet.training.sam_tuning import SAMTuning


class TunedSAMTrainer(SAMTuning, AutomaticTrainer):
    """Trains a `TunedSAM` as `SAM3DAdapterTrainer` trains ours: preset, precision, rates and clipping from the plan.

    All methods so start from the same weights and train alike; only what is tuned differs.
    """

    paper_millions: float
    """Millions of parameters tuned in the encoder, as the paper counts them for ViT-B."""

    @classmethod
    def network_arguments(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """What the plan says of SAM, and what it gives for this trainer's network.

        Raises:
            SAM3DError: the network has no such argument.
        """
        sam = settings.model_dump(include={"preset", "stride", "precision", "activation_checkpointing"})
        return sam | super().network_arguments(settings)

    def on_train_start(self) -> None:
        """As `SAMTuning` does; the log says how much is tuned."""
        if not self.was_initialized:
            self.initialize()
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
        nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_clip)
        self.optimizer.step()
        return {"loss": loss.detach().cpu().numpy()}

    def load_sam(self, encoder: nn.Module, path: Path) -> None:
        """Copy the weights of a SAM file into the encoder, in place."""
        encoder.load_sam(path)


def tuned_parameters(module: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
