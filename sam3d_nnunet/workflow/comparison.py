"""What a recipe compares: the block "benchmark"."""

from typing import Annotated, Any, Literal

from pydantic import Field

from sam3d_nnunet.errors import SAM3DError, errors_in
from sam3d_nnunet.evaluation.results import RESERVED
from sam3d_nnunet.file_names import NewName, alike, new_name_fault
from sam3d_nnunet.io import brief
from sam3d_nnunet.nnunet.folders import refuse_plans_name
from sam3d_nnunet.planning.plan_dataset import seeded_plans
from sam3d_nnunet.planning.planner import PLANS
from sam3d_nnunet.planning.recipes import load_recipe
from sam3d_nnunet.planning.settings import Block
from sam3d_nnunet.simulation.protocols import PAPER, Protocol

BLOCK = "benchmark"

PAPER_METHODS: tuple[dict[str, str], ...] = (
    {"name": "nnU-Net", "trainer": "nnUNetTrainer", "plans": "nnUNetPlans"},
    {"name": "nnU-Net, ResEnc-L", "trainer": "nnUNetTrainer", "plans": "nnUNetResEncUNetLPlans"},
    {"name": "nnU-Net, same plan", "trainer": "nnUNetTrainer"},
    {"name": "nnU-Net, same plan and length", "trainer": "nnUNetTrainer_planned"},
    {"name": "TransBTS", "trainer": "TransBTSTrainer"},
    {"name": "nnFormer", "trainer": "NNFormerTrainer"},
    {"name": "Swin-UNETR", "trainer": "SwinUNETRTrainer"},
    {"name": "UNETR++", "trainer": "UNETRPPTrainer"},
    {"name": "3D UX-Net", "trainer": "UXNet3DTrainer"},
    {"name": "MedNeXt-L", "trainer": "MedNeXtTrainer"},
    {"name": "Full fine-tuning", "trainer": "SAM3DFullFineTuneTrainer"},
    {"name": "Adapter (Houlsby 2019)", "trainer": "SAM3DHoulsbyAdapterTrainer"},
    {"name": "Pro-tuning", "trainer": "SAM3DProTuningTrainer"},
    {"name": "ST-Adapter", "trainer": "SAM3DSTAdapterTrainer"},
    {"name": "Med-tuning", "trainer": "SAM3DMedTuningTrainer"},
    {"name": "3DSAM-adapter, no prompts", "trainer": "SAM3DAdapterAutoTrainer"},
    {"name": "SAM-B", "sam2d": "vit_b"},
    {"name": "prompted nnU-Net", "trainer": "PromptedUNetTrainer"},
    {"name": "prompted nnU-Net, 1000 epochs", "trainer": "PromptedUNetTrainer_1000epochs"},
    {"name": "prompted nnU-Net, ResEnc", "trainer": "PromptedResEncUNetTrainer"},
    {"name": "prompted nnU-Net, AdamW", "trainer": "PromptedUNetTrainer_adamw"},
    {"name": "3DSAM-adapter, as in the paper", "trainer": "SAM3DAdapterTrainer_paper"},
    {"name": "3DSAM-adapter", "trainer": "SAM3DAdapterTrainer"},
)
"""The methods of the paper, our controls and MedNeXt-L, written as in a recipe."""


def used_as_they_are(plans: str) -> bool:
    """Whether plans are used as nnU-Net or the user made them; the recipe makes all others."""
    return plans.startswith("nnUNet")


class ComparedMethod(Block):
    """A model to train, or original 2-D SAM, which isn't trained."""

    name: NewName = Field(pattern=r"^\w[^{}]*$", description="name of its folder in the results, and in tables")
    trainer: NewName | None = Field(None, description="any trainer of nnU-Net's or ours")
    plans: str = PLANS
    configuration: NewName = "3d_fullres"
    data: str | None = Field(None, description="plans whose preprocessed data it uses; default: those of its own plans")
    sam3d: dict[str, Any] = Field(
        {}, description="settings of its plans that differ from the recipe's, so that it needs plans of its own"
    )
    sam2d: Literal["vit_b", "vit_l", "vit_h"] | None = Field(
        None, description="instead of a trainer: original 2-D SAM of this size, slice by slice"
    )

    @property
    def data_plans(self) -> str:
        """The plans whose preprocessed data it uses."""
        return self.data or self.plans

    @property
    def facts(self) -> dict[str, str | None]:
        """What method.json in the results says about it."""
        if self.trainer is None:
            return dict.fromkeys(("trainer", "plans", "configuration"))
        return {"trainer": self.trainer, "plans": self.plans, "configuration": self.configuration}

    @property
    def model(self) -> str:
        """Name of the model folder."""
        return f"{self.trainer}__{self.plans}__{self.configuration}"


def run_name(method: str, seed: int) -> str:
    """Name of one of several trainings of a method."""
    return f"{method}, seed {seed}"


class Run(ComparedMethod):
    """One of several trainings of a method, with its own seed, plans and folder of results."""

    run_of: ComparedMethod
    seed: int

    @classmethod
    def of(cls, method: ComparedMethod, seed: int) -> "Run":
        """The training of a method with a seed."""
        own = {"name": run_name(method.name, seed), "plans": seeded_plans(method.plans, seed)}
        # plans that differ in the seed alone share their data
        return cls(**method.model_dump() | own | {"data": method.data_plans}, run_of=method, seed=seed)

    @property
    def facts(self) -> dict[str, str | None]:
        return super().facts | {"run_of": self.run_of.name}


class Comparison(Block):
    """Methods to compare, and how to compare them."""

    methods: list[ComparedMethod] = Field(
        [ComparedMethod(**method) for method in PAPER_METHODS], min_length=1, description="methods to compare"
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(
        [], description="train our methods once with each of these seeds; empty: once, without a seed"
    )
    folds: list[int] = Field([0, 1, 2, 3, 4], min_length=1, description="folds of splits_final.json")
    protocols: list[str] = Field(
        [protocol.name for protocol in PAPER],
        min_length=1,
        description="protocols of methods that take clicks; the others are automatic",
    )
    slice_protocols: list[str] = Field(["slice_1", "slice_3", "slice_10"], description="protocols of 2-D SAM")
    trials: int = Field(3, ge=1, le=1000, description="how many times clicks are drawn")
    windows: Literal["follow", "single"] = Field(
        "follow", description="windows of predictions from clicks, as for `sam3d evaluate`; single: as in the paper"
    )
    mirroring: bool = Field(
        True, description="average predictions over mirrored images, which takes up to eight times as long"
    )
    tolerances: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        [5.0], min_length=1, description="tolerances of the surface Dice, in mm"
    )
    baseline: str | None = Field(None, description="method that the others are tested against")
    paper: Literal["kits21", "msd_pancreas", "lits17", "msd_colon"] | None = Field(
        None, description="data set of the paper whose figures the table also shows"
    )

    @classmethod
    def from_recipe(cls, recipe: str) -> "Comparison":
        """The block of a recipe.

        Args:
            recipe: its name, or a JSON file.

        Raises:
            SAM3DError: there is no such recipe or no block in it, or the block can't be used.
        """
        content = load_recipe(recipe)
        if BLOCK not in content:
            raise SAM3DError(
                f"The recipe {recipe} has no block {BLOCK!r} with methods to compare. Add it to the recipe."
            )
        return cls.parse(content[BLOCK], f"the recipe {recipe}")

    @classmethod
    def parse(cls, block: dict[str, Any], where: str) -> "Comparison":
        """The comparison of a block in JSON.

        Args:
            block: what differs from the defaults.
            where: name of the file, for messages.

        Raises:
            SAM3DError: an unknown key, a wrong type or an impossible value, by name.
        """
        what = f"The block '{BLOCK}' of {where}"
        comparison = cls.read(block, what)
        comparison._check(what)
        return comparison

    def restricted(self, methods: list[str], folds: list[int]) -> "Comparison":
        """The same with only these methods and these folds; an empty list keeps all.

        Raises:
            SAM3DError: there is no such method.
        """
        names = [method.name for method in self.methods]
        for name in methods:
            if name not in names:
                raise SAM3DError(f"The recipe has no method {name!r}. Its methods are {', '.join(names)}.")
        chosen = [method for method in self.methods if not methods or method.name in methods]
        return self.model_copy(update={"methods": chosen, "folds": list(dict.fromkeys(folds)) or self.folds})

    def _refuse_other_settings_of_same_plans(self, method: ComparedMethod, where: str) -> None:
        for other in self.methods:
            if other.plans == method.plans and (other.sam3d, other.data) != (method.sam3d, method.data):
                raise SAM3DError(
                    f"{where} gives {method.name!r} and {other.name!r} the same plans {method.plans}, but other sam3d "
                    "or data. Give one of them another name for its plans."
                )
        if method.sam3d and used_as_they_are(method.plans):
            raise SAM3DError(
                f"{where} gives {method.name!r} settings for the plans {method.plans}, which are used as they are. "
                "Give it plans with another name."
            )

    def _refuse_names(self, where: str) -> None:
        """Refuse methods whose folders would be one on some systems, and runs that can't have their names."""
        names = [method.name for method in self.methods]
        runs = [run_name(name, seed) for name in names for seed in self.seeds]
        for name in runs:
            fault = "is that of another method" if name in names else new_name_fault(name)
            if fault:
                raise SAM3DError(f"{where} has a run {brief(name)}: the name {fault}. Give the method another name.")
        if same := alike([*names, *runs]):
            raise SAM3DError(
                f"{where} has the methods {same[0]!a} and {same[1]!a}, whose folders are one on some systems: capitals "
                "don't tell names apart there, nor do two forms of Unicode. Give one of them another name."
            )

    def _check(self, where: str) -> None:
        names = [method.name for method in self.methods]
        for method in self.methods:
            if (method.trainer is None) == (method.sam2d is None):
                raise SAM3DError(f"{where} must give the method {method.name!r} either a trainer or sam2d.")
            for plans in (method.plans, method.data):
                if plans is not None:
                    with errors_in(where):
                        refuse_plans_name(plans)
            self._refuse_other_settings_of_same_plans(method, where)
            if names.count(method.name) > 1:
                raise SAM3DError(f"{where} has two methods {method.name!r}. Give each method its own name.")
            if method.name.casefold() in RESERVED:
                raise SAM3DError(
                    f"{where} has a method {method.name!r}, but results keep something else in a folder of that name. "
                    "Give the method another name."
                )
        self._refuse_names(where)
        if self.baseline is not None and self.baseline not in names:
            raise SAM3DError(f"{where} names the baseline {self.baseline!r}, which is not one of its methods.")
        if len(set(self.seeds)) < len(self.seeds):
            raise SAM3DError(f"{where} gives the seeds {self.seeds}. Each must appear only once.")
        if min(self.folds) < 0 or len(set(self.folds)) < len(self.folds):
            raise SAM3DError(f"{where} gives the folds {self.folds}. Each must be 0 or more and appear only once.")
        for name in (*self.protocols, *self.slice_protocols):
            with errors_in(where):
                protocol = Protocol.parse(name)
            if name in self.slice_protocols and not protocol.is_drawn:
                raise SAM3DError(
                    f"{where} names the protocol {name!r} for 2-D SAM. Give one whose clicks are all drawn before the "
                    "prediction, such as slice_1."
                )
            if protocol.name != name:
                raise SAM3DError(f"{where} names the protocol {name!r}. Write it as {protocol.name}.")
