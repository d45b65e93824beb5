"""The block "sam3d" in a configuration of the plans: the settings of our trainers."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.turn import ORIENTATIONS
from sam3d_nnunet.io import brief, short
from sam3d_nnunet.network.prompt_encoder import CLICK_MAPS
from sam3d_nnunet.network.refinement import REFINEMENTS
from sam3d_nnunet.network.sam3d import PRESETS, STRIDES

BLOCK = "sam3d"
SHOWN = 5
"""Problems of a block that a message tells."""
Share = Annotated[float, Field(ge=0, le=1)]
MOST = 1_000_000
Count = Annotated[int, Field(ge=1, le=MOST)]
BEFORE: dict[str, Any] = {"start": "published", "click_map": "gaussian", "click_unit": "voxel", "refine": "none"}
"""Settings that decide what a network computes and that older trainings did not write down: what they were then."""


class Block(BaseModel):
    """A block of settings in a JSON file. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def read(cls, block: dict[str, Any], what: str) -> Self:
        """Read a block of JSON.

        Args:
            block: the values that differ from the defaults.
            what: name and place of the block, with which errors begin.

        Raises:
            SAM3DError: a key is unknown, or a value has the wrong type or an impossible value. The error names the key.
        """
        if not isinstance(block, dict):
            raise SAM3DError(f"{what} cannot be used. It must be a JSON object {{...}}, not {brief(block)}.")
        try:
            return cls.model_validate(block)
        except ValidationError as e:
            problems = [f"'{'.'.join(short(str(part)) for part in p['loc'])}': {_reason(p)}" for p in e.errors()]
            more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
            raise SAM3DError(f"{what} cannot be used. {'; '.join(problems[:SHOWN] + more)}.") from e


def _is_orientation(code: str) -> str:
    if code not in ORIENTATIONS:
        raise PydanticCustomError(
            "orientation", "must be three letters such as LPS: one of L and R, one of P and A, one of I and S"
        )
    return code


def _named_refinement(value: Any) -> Any:
    """When there was one kind of refinement, plans said whether networks have it."""
    return {True: "convolutions", False: "none"}[value] if isinstance(value, bool) else value


class ClickSettings(Block):
    """How training simulates prompts."""

    policy: Literal["default", "paper", "released"] = Field(
        "default", description="how clicks are drawn: default, paper or released"
    )
    no_click_share: Share = Field(0.15, description="share of patches without clicks (policy default)")
    mask_share: Share = Field(0.2, description="share of patches with a previous mask (policy default)")
    scribble_share: Share = Field(0.1, description="share of patches with scribbles (policy default)")
    box_share: Share = Field(0.1, description="share of patches with boxes (policy default)")
    iterated_share: Share = Field(0.3, description="share of steps that correct the first mask (policy default)")
    most_clicks: int = Field(
        10,
        ge=1,
        le=10,
        description="clicks on a class: a random number up to this, mostly few; beside them on background, up to half "
        "of it (policy default)",
    )
    most_corrections: Count = Field(
        1, description="corrections in such a step, one after the other: a random number up to this"
    )


class OptimizerSettings(Block):
    """AdamW with linear decay (paper, Table 5)."""

    lr: float = Field(1e-4, gt=0, allow_inf_nan=False, description="learning rate at the start")
    weight_decay: float = Field(1e-5, ge=0, allow_inf_nan=False, description="weight decay of AdamW")
    final_lr_share: Share = Field(0.1, description="learning rate at the end, as a share of `lr`")
    gradient_clip: float = Field(1.0, gt=0, allow_inf_nan=False, description="largest norm of the gradient")


class SAM3DSettings(Block):
    """All settings. Plans without the block get the defaults."""

    preset: str = Field("vit_b", description=f"one of {', '.join(PRESETS)}")
    stride: int | None = Field(None, description="voxels a token covers (2, 4 or 8); null: chosen from the patch size")
    sam_checkpoint: str = Field("auto", description='a path, "auto" (search, then download) or "none" (from scratch)')
    start: Literal["sam", "published"] | None = Field(
        None,
        description="where the lifted encoder starts: sam (at SAM's own features) or published (slices weighted at "
        "random, adapters that add random features); null: published for the presets paper and tiny, sam for others",
    )
    labelled_prompts: bool | None = Field(None, description="clicks carry labels; null: as the preset has it")
    num_click_labels: int | None = Field(
        None, ge=2, lt=2**15, description="number of click labels with background; null: as the data set"
    )
    prompt_encoding: Literal["sampler", "position", "sam_position", "none"] = Field(
        "sampler",
        description="what represents a click: sampler (the features under it), position (SAM's encoding), "
        "sam_position (SAM's encoding and layers, which encode the positions of the image's tokens, too) or none "
        "(clicks are drawn only)",
    )
    click_map: Literal[("none", *CLICK_MAPS)] | None = Field(
        None,
        description="how our network and the prompted U-Nets draw clicks: gaussian (balls), distance (to the nearest "
        "click) or none (our network alone; not drawn); null: as the trainer has it",
    )
    click_unit: Literal["token", "voxel"] | None = Field(
        None,
        description="size of the clicks that the prompted U-Nets draw: token, as in our network, or voxel, as in "
        "earlier versions; null: token",
    )
    refine: Annotated[Literal[("none", *REFINEMENTS)], BeforeValidator(_named_refinement)] | None = Field(
        None,
        description="how logits at full resolution come from the decoder's map, image and prompts: unet (a U-Net), "
        "convolutions (two, as in earlier versions), none, or unet_alone (the U-Net without the encoder, to see what "
        "that adds); null: as the trainer has it (unet where clicks carry labels)",
    )
    deep_prompt_levels: list[Literal[1, 2, 3]] = Field(
        [], description="levels of features that clicks change in addition to the last, the fourth"
    )
    aggregate_levels: bool = Field(True, description="decode all four levels of features; false: the last one alone")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 if the device computes in it")
    activation_checkpointing: bool | None = Field(
        None, description="compute blocks again in the backward pass instead of keeping them; null: for SAM's encoders"
    )
    orientation: Annotated[str, AfterValidator(_is_orientation)] | None = Field(
        None,
        description="where the indices i, j, k of training images run to, such as LPS; new images are turned to it. "
        "null: the images differ, or their format does not tell",
    )
    batch_size: Count = Field(2, description="patches of a step, over all GPUs")
    training_cases: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="train on so many of a fold's training cases, the same for all methods; null: all",
    )
    foreground_share: Share = Field(0.5, description="share of patches centred on a foreground voxel")
    target_policy: Literal["semantic", "clicked"] = Field(
        "semantic", description="semantic: every voxel of a class is the target; clicked: components that hold a click"
    )
    clicks: ClickSettings = ClickSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    networks: dict[str, dict[str, Any]] = Field(
        {}, description="by trainer: arguments of the baselines' networks that differ from their authors'"
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="seeds weights, patches, augmentation and prompts of a training; null: none",
    )
    num_epochs: Count = Field(200, description="epochs of a training")
    steps_per_epoch: Count = Field(250, description="training steps of an epoch")
    validation_steps: Count = Field(50, description="validation steps of an epoch")

    @property
    def clicks_carry_labels(self) -> bool:
        """Whether the network distinguishes the labels of clicks: background and classes."""
        return PRESETS[self.preset].labelled_prompts if self.labelled_prompts is None else self.labelled_prompts

    @property
    def clicks_select(self) -> bool:
        """Whether a click stands for the object under it, not for all objects of its class."""
        return self.target_policy == "clicked"

    @property
    def iterated_share(self) -> float:
        """Share of training steps that correct the first mask with another click."""
        return self.clicks.iterated_share if self.clicks.policy == "default" else 0

    @property
    def shows_maps(self) -> bool:
        """Whether training shows the network previous masks, scribbles or boxes."""
        clicks = self.clicks
        shares = (clicks.mask_share, clicks.scribble_share, clicks.box_share, clicks.iterated_share)
        return clicks.policy == "default" and any(shares)


def parse_settings(block: dict[str, Any], where: str) -> SAM3DSettings:
    """Read the block "sam3d" and check that its values fit together.

    Args:
        block: the values that differ from the defaults.
        where: the plans and configuration, for errors.

    Raises:
        SAM3DError: a key is unknown, a value is impossible, or two values contradict each other.
    """
    settings = SAM3DSettings.read(block, f"The block '{BLOCK}' of {where}")
    if settings.preset not in PRESETS:
        raise SAM3DError(
            f"The block '{BLOCK}' of {where} names the preset {brief(settings.preset)}, which does not exist. "
            f"Choose one of {', '.join(PRESETS)}."
        )
    if settings.stride not in (None, *STRIDES):
        raise SAM3DError(
            f"The block '{BLOCK}' of {where} sets stride to {brief(settings.stride)}. Choose one of {STRIDES} or null."
        )
    if not settings.clicks_carry_labels and settings.clicks.policy == "default":
        raise SAM3DError(
            f"The block '{BLOCK}' of {where} combines unlabelled clicks (preset {settings.preset!r}) with the click "
            "policy 'default', which also draws background clicks. Set clicks.policy to 'paper' or 'released'."
        )
    if settings.refine not in (None, "none") and not settings.clicks_carry_labels:
        raise SAM3DError(
            f"The block '{BLOCK}' of {where} combines unlabelled clicks (preset {settings.preset!r}) with refine "
            f"{settings.refine!r}, which draws clicks by label. Set refine to 'none'."
        )
    if settings.deep_prompt_levels and settings.prompt_encoding == "none":
        raise SAM3DError(
            f"The block '{BLOCK}' of {where} gives clicks to the levels {settings.deep_prompt_levels}, but sets "
            "prompt_encoding to 'none', which gives them to no level. Set deep_prompt_levels to []."
        )
    if settings.deep_prompt_levels and not settings.aggregate_levels:
        raise SAM3DError(
            f"The block '{BLOCK}' of {where} gives prompts to the levels {settings.deep_prompt_levels}, but does not "
            "decode them. Set aggregate_levels to true, or deep_prompt_levels to []."
        )
    if settings.prompt_encoding == "none" and (settings.click_map == "none" or not settings.clicks_carry_labels):
        raise SAM3DError(
            f"The block '{BLOCK}' of {where} sets prompt_encoding to 'none', but its clicks are not drawn either "
            "(click_map 'none', or clicks without labels), so they would change nothing. "
            "Set prompt_encoding to 'sampler'."
        )
    if settings.clicks_select and settings.clicks.policy == "released":
        raise SAM3DError(
            f"The block '{BLOCK}' of {where} combines the target policy 'clicked' with the click policy 'released', "
            "which also clicks anywhere and so selects what it hits. "
            "Set clicks.policy to 'paper' or 'default', or target_policy to 'semantic'."
        )
    return settings


def trained_settings(block: dict[str, Any], where: str) -> SAM3DSettings:
    """The settings of a network from the block that its training wrote into the plans, completed by `as_trained`.

    Arguments and errors are those of `parse_settings`.
    """
    return parse_settings(as_trained(block), where)


def as_trained(block: dict[str, Any]) -> dict[str, Any]:
    """The block of a trained model, with what older trainings did not write down."""
    if not isinstance(block, dict):
        return block  # for `parse_settings` to refuse
    return block | {key: value for key, value in BEFORE.items() if block.get(key) is None}


def _reason(problem: dict[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such setting"
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, but it is {brief(problem['input'])}"


def noted_orientation(configuration: dict[str, Any]) -> str | None:
    """Of the training images, by a configuration of nnU-Net's plans; None: the plans don't tell, or images differ."""
    return configuration.get(BLOCK, {}).get("orientation")


def planned_block(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """The block "sam3d" of a configuration, merged over the blocks of the configurations it inherits from.

    nnU-Net's own inheritance would replace the whole block of the parent by the block of the child.

    Raises:
        SAM3DError: a block is not a dictionary.
    """
    entry = plans["configurations"][configuration]
    own = entry.get(BLOCK, {})
    if not isinstance(own, dict):
        where = f"{plans.get('plans_name')}, configuration {configuration}"
        raise SAM3DError(f"The block '{BLOCK}' of {where} must be an object with settings, not {brief(own)}.")
    parent = entry.get("inherits_from")
    return merge(planned_block(plans, parent), own) if parent else own


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`; nested dictionaries are merged key by key."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged
