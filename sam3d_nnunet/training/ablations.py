"""Ablations: the paper's, of the network and training of the plan and, with `_paper_`, of those of the paper; and ours.

The paper compares networks whose clicks have no labels and are not drawn as dense prompts, which also tell where a
click is. To compare with its figures take the trainers `..._paper_...`, or plans with unlabelled clicks.
"""

from sam3d_nnunet.training.published import SAM3DAdapterTrainer_paper
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer


class SAM3DAdapterTrainer_posenc(SAM3DAdapterTrainer):
    """Ablation: clicks are represented by SAM's code of their positions instead of the features under them."""

    changes = {"prompt_encoding": "position"}


class SAM3DAdapterTrainer_samposenc(SAM3DAdapterTrainer):
    """Ablation: SAM's prompt encoder with a third axis, which also codes the positions of the image's tokens."""

    changes = {"prompt_encoding": "sam_position"}


class SAM3DAdapterTrainer_nomla(SAM3DAdapterTrainer):
    """Ablation: no multi-layer aggregation; only the last level of features and the image are decoded."""

    changes = {"aggregate_levels": False}


class SAM3DAdapterTrainer_unetalone(SAM3DAdapterTrainer):
    """Ablation of ours: the U-Net at full resolution without SAM's encoder."""

    changes = {"refine": "unet_alone"}


class SAM3DAdapterTrainer_deepprompt_1234(SAM3DAdapterTrainer):
    """Ablation: clicks change all four levels of features instead of the last one alone.

    The paper does not describe how. The authors' checkpoints hold four prompt encoders, of which only the last is used.
    So here each prompted level has its own prompt encoder, which samples that level and changes it before decoding.
    """

    changes = {"deep_prompt_levels": [1, 2, 3]}


class SAM3DAdapterTrainer_deepprompt_14(SAM3DAdapterTrainer):
    """Ablation: clicks change the first and the last level."""

    changes = {"deep_prompt_levels": [1]}


class SAM3DAdapterTrainer_deepprompt_24(SAM3DAdapterTrainer):
    """Ablation: clicks change the second and the last level."""

    changes = {"deep_prompt_levels": [2]}


class SAM3DAdapterTrainer_deepprompt_34(SAM3DAdapterTrainer):
    """Ablation: clicks change the third and the last level."""

    changes = {"deep_prompt_levels": [3]}


class SAM3DAdapterTrainer_vitl(SAM3DAdapterTrainer):
    """SAM's ViT-L as image encoder."""

    changes = {"preset": "vit_l"}


class SAM3DAdapterTrainer_vith(SAM3DAdapterTrainer):
    """SAM's ViT-H as image encoder."""

    changes = {"preset": "vit_h"}


class SAM3DAdapterTrainer_paper_posenc(SAM3DAdapterTrainer_paper):
    """Ablation of the paper's training: SAM's code of the position of a click, in the published layers."""

    changes = SAM3DAdapterTrainer_paper.changes | SAM3DAdapterTrainer_posenc.changes


class SAM3DAdapterTrainer_paper_samposenc(SAM3DAdapterTrainer_paper):
    """Ablation of the paper's training (Fig. 7 a): SAM's prompt encoder with a third axis.

    The paper calls its opponent SAM's positional encoding. This is the strongest reading: codes of clicks and of the
    image's tokens, and SAM's own layers, in which clicks look into the image at their place.
    """

    changes = SAM3DAdapterTrainer_paper.changes | SAM3DAdapterTrainer_samposenc.changes


class SAM3DAdapterTrainer_paper_nomla(SAM3DAdapterTrainer_paper):
    """Ablation of the paper's training (Fig. 7 b): no multi-layer aggregation."""

    changes = SAM3DAdapterTrainer_paper.changes | SAM3DAdapterTrainer_nomla.changes


class SAM3DAdapterTrainer_paper_deepprompt_1234(SAM3DAdapterTrainer_paper):
    """Ablation of the paper's training (Table 3): clicks change all four levels."""

    changes = SAM3DAdapterTrainer_paper.changes | SAM3DAdapterTrainer_deepprompt_1234.changes


class SAM3DAdapterTrainer_paper_deepprompt_14(SAM3DAdapterTrainer_paper):
    """Ablation of the paper's training (Table 3): clicks change the first and the last level."""

    changes = SAM3DAdapterTrainer_paper.changes | SAM3DAdapterTrainer_deepprompt_14.changes


class SAM3DAdapterTrainer_paper_deepprompt_24(SAM3DAdapterTrainer_paper):
    """Ablation of the paper's training (Table 3): clicks change the second and the last level."""

    changes = SAM3DAdapterTrainer_paper.changes | SAM3DAdapterTrainer_deepprompt_24.changes


class SAM3DAdapterTrainer_paper_deepprompt_34(SAM3DAdapterTrainer_paper):
    """Ablation of the paper's training (Table 3): clicks change the third and the last level."""

    changes = SAM3DAdapterTrainer_paper.changes | SAM3DAdapterTrainer_deepprompt_34.changes
