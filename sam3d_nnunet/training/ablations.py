"""The paper's ablations: our trainer with one thing changed.

All else is the plan's. Where it says nothing, the network is ours, whose dense prompts also tell where a click is; to
compare with the paper's figures, plan {"preset": "paper", "clicks": {"policy": "paper"}}. `{"preset": "tiny"}` makes
any of them but the larger encoders small enough for a CPU. The larger encoders set the preset themselves, so that they
keep labelled clicks and dense prompts, which `paper` has not.
"""

from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer


class SAM3DAdapterTrainer_posenc(SAM3DAdapterTrainer):
    """Clicks are told by SAM's code of their positions instead of by the features under them."""

    changes = {"prompt_encoding": "position"}


class SAM3DAdapterTrainer_nomla(SAM3DAdapterTrainer):
    """No multi-layer aggregation: the last level of features and the image alone are decoded."""

    changes = {"aggregate_levels": False}


class SAM3DAdapterTrainer_deepprompt_1234(SAM3DAdapterTrainer):
    """Clicks change all four levels of features, not the last one alone.

    How the paper does so is read off the authors' checkpoints, which hold four prompt encoders although only the last
    one is used: each prompted level has one of its own, which samples that level and changes it before it is decoded.
    """

    changes = {"deep_prompt_levels": [1, 2, 3]}


class SAM3DAdapterTrainer_deepprompt_14(SAM3DAdapterTrainer):
    """Clicks change the first and the last level."""

    changes = {"deep_prompt_levels": [1]}


class SAM3DAdapterTrainer_deepprompt_24(SAM3DAdapterTrainer):
    """Clicks change the second and the last level."""

    changes = {"deep_prompt_levels": [2]}


class SAM3DAdapterTrainer_deepprompt_34(SAM3DAdapterTrainer):
    """Clicks change the third and the last level."""

    changes = {"deep_prompt_levels": [3]}


class SAM3DAdapterTrainer_vitl(SAM3DAdapterTrainer):
    """SAM's ViT-L as image encoder."""

    changes = {"preset": "vit_l"}


class SAM3DAdapterTrainer_vith(SAM3DAdapterTrainer):
    """SAM's ViT-H as image encoder."""

    changes = {"preset": "vit_h"}
