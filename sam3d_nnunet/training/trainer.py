"""SAM3DAdapterTrainer: nnU-Net's trainer for the promptable network."""

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from sam3d_nnunet.network.sam3d import PRESETS, SAM3D
from sam3d_nnunet.network.weights import lift_sam, sam_checkpoint
from sam3d_nnunet.planning.settings import BLOCK, parse_settings
from sam3d_nnunet.training.linear_decay import LinearDecay
from sam3d_nnunet.training.prompted_trainer import PromptedTrainer


class SAM3DAdapterTrainer(PromptedTrainer):
    """Trains `SAM3D` with simulated prompts; preset, lengths and rates come from the plan's block "sam3d"."""

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

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network of the plan's block, with random weights."""
        settings = parse_settings(configuration_manager.configuration.get(BLOCK, {}), "the plans")
        return SAM3D.from_preset(
            settings.preset,
            num_input_channels,
            num_output_channels,
            tuple(configuration_manager.patch_size),
            settings.stride,
            num_click_labels=settings.num_click_labels,
            labelled_prompts=settings.labelled_prompts,
            takes_maps=settings.shows_maps,
            precision=settings.precision,
            activation_checkpointing=settings.activation_checkpointing,
            prompt_encoding=settings.prompt_encoding,
            deep_prompt_levels=settings.deep_prompt_levels,
            aggregate_levels=settings.aggregate_levels,
        )

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
                lift_sam(network.image_encoder, path)
            self.print_to_log_file(f"Image encoder starts from {path or 'random weights, as sam_checkpoint says'}")
        network.initialized.fill_(1)
