"""The commands that a comparison takes, as a user would type them, and which of them are left to run."""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.measure import up_to_date
from sam3d_nnunet.evaluation.protocol_prediction import step_folder
from sam3d_nnunet.evaluation.results_folder import ResultsFolder
from sam3d_nnunet.nnunet.folders import dataset_number, preprocessed_root
from sam3d_nnunet.nnunet.names import find_trainer, takes_prompts
from sam3d_nnunet.planning.plan_dataset import differences
from sam3d_nnunet.planning.recipes import load_recipe
from sam3d_nnunet.prediction.model_folder import FINAL, trained_model_folder
from sam3d_nnunet.simulation.protocols import AUTOMATIC, Protocol
from sam3d_nnunet.training.planned_trainer import PlannedTrainer, complete_settings
from sam3d_nnunet.workflow.comparison import WORK, ComparedMethod, Comparison

NNUNET_PLANNERS = {
    "nnUNetPlans": "ExperimentPlanner",
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
}
"""Plans that nnU-Net's planners write; all others are those of the recipe."""
PREPARE, TRAIN, EVALUATE = "prepare", "train", "evaluate"

Command = list[str]


@dataclass(frozen=True)
class Step:
    """Commands to run one after the other.

    Attributes:
        name: KIND/WHAT/..., where KIND is one of PREPARE, TRAIN and EVALUATE.
        commands: with their arguments.
        needs: names of the steps that have to be finished before.
    """

    name: str
    commands: list[Command]
    needs: list[str]

    @property
    def shell(self) -> str:
        """As one line for a shell: all commands are run, and the step fails if one of them does."""
        tried = "; ".join(f"{shlex.join(command)} || failed=1" for command in self.commands)
        return f"failed=0; {tried}; exit $failed"


class Steps:
    """What a comparison takes on a data set, from its raw images to measured predictions."""

    def __init__(self, comparison: Comparison, recipe: str, dataset: str, results: str | Path, device: str) -> None:
        """
        Args:
            comparison: of which methods.
            recipe: its name, or a JSON file.
            dataset: id or name of a data set that has folds.
            results: folder of results of the data set.
            device: where to train and predict.

        Raises:
            SAM3DError: the data set has no such fold, a trainer can't be found, a method can't be evaluated, the
                results are about something else, or plans are there already and not those of the recipe.
        """
        self.comparison, self.recipe, self.device = comparison, recipe, device
        self.data = EvaluationData.from_nnunet(dataset)
        self.number = str(dataset_number(self.data.name))  # which is all that some of nnU-Net's commands take
        self.results = ResultsFolder(Path(results).absolute())
        self.cases = {fold: self.data.cases_of_fold(str(fold)) for fold in comparison.folds}
        self.trained = [method for method in comparison.methods if method.trainer is not None]
        self.protocols = {
            method.name: comparison.protocols if takes_prompts(find_trainer(method.trainer)) else [AUTOMATIC]
            for method in self.trained
        }
        self._preprocessed = preprocessed_root() / self.data.name
        self.results.check_data(self.data)
        for method in comparison.methods:
            self.results.check_method(method.name, method.facts)
            if method.sam2d is not None and self.data.raw.listed is not None:
                raise SAM3DError(
                    f"{method.name}: sam3d predict-sam2d needs images in a folder, but the dataset.json of "
                    f"{self.data.name} lists them. Leave the method out."
                )
        for plans in self._plans_names:
            self._refuse_other_plans(plans)
        for method in self.trained:
            self._refuse_model_of_other_plans(method)
            for fold in map(str, comparison.folds):
                self.results.refuse_other_weights(method.name, fold, self._model_folder(method), [fold], FINAL)

    def left(self) -> list[Step]:
        """What isn't finished, in an order in which it can be run."""
        steps = [*self._prepare(), *self._train(), *self._evaluate(), *self._evaluate_sam2d()]
        names = {step.name for step in steps}
        return [replace(step, needs=[name for name in step.needs if name in names]) for step in steps]

    def _prepare(self) -> Iterable[Step]:
        fingerprint = f"{PREPARE}/fingerprint"
        if self.trained and not (self._preprocessed / "dataset_fingerprint.json").is_file():
            check = ["nnUNetv2_extract_fingerprint", "-d", self.number, "--verify_dataset_integrity"]
            yield Step(fingerprint, [check], [])
        for plans in self._plans_names:
            if not self._plans_file(plans).is_file():
                yield Step(_planned(plans), [self._plan_command(plans)], [fingerprint])
        # methods may share what is preprocessed, which must not be written by two at once
        folders: dict[Path, ComparedMethod] = {}
        for method in self.trained:
            folders.setdefault(self._preprocessed_folder(method), method)
        for folder, method in folders.items():
            if not self._is_preprocessed(folder):
                command = ["nnUNetv2_preprocess", "-d", self.number, "-plans_name", method.plans]
                command += ["-c", method.configuration]
                yield Step(f"{PREPARE}/{folder.name}", [command], [_planned(method.plans)])

    def _is_preprocessed(self, folder: Path) -> bool:
        """nnU-Net writes CASE.pkl as the last file of a case, and copies the truth at the end."""
        truth, ending = self._preprocessed / "gt_segmentations", self.data.file_ending
        return all(
            (folder / f"{case}.pkl").is_file() and (truth / f"{case}{ending}").is_file()
            for case in self.data.raw.cases_with_images
        )

    def _train(self) -> Iterable[Step]:
        for model, method in {method.model: method for method in self.trained}.items():
            folder = self._model_folder(method)
            needs = [_planned(method.plans), f"{PREPARE}/{self._preprocessed_folder(method).name}"]
            for fold in self.comparison.folds:
                trained = folder / f"fold_{fold}"
                if (trained / FINAL).is_file() and (trained / "validation" / "summary.json").is_file():
                    continue
                # --c begins anew where there is nothing to continue
                command = ["nnUNetv2_train", self.number, method.configuration, str(fold), "-p", method.plans]
                command += ["-tr", method.trainer, "-device", self.device, "--c"]
                yield Step(_trained(model, fold), [command], needs)

    def _evaluate(self) -> Iterable[Step]:
        for method in self.trained:
            protocols = self.protocols[method.name]
            for fold in self.comparison.folds:
                if self._measured(method, protocols, fold, range(self.comparison.trials)):
                    continue
                command = self._evaluate_command(method, fold)
                command += ["-c", method.configuration, "-tr", method.trainer, "-p", method.plans]
                command += ["--trials", str(self.comparison.trials), "--device", self.device]
                command += _repeated("--protocol", protocols)
                yield Step(f"{EVALUATE}/{method.name}/fold_{fold}", [command], [_trained(method.model, fold)])

    def _evaluate_sam2d(self) -> Iterable[Step]:
        """SAM predicts whatever has clicks: all folds in one step, for each set of clicks."""
        folds = self.comparison.folds
        for method in (method for method in self.comparison.methods if method.sam2d is not None):
            for protocol in self.comparison.slice_protocols:
                for trial in range(self.comparison.trials):
                    # by size, so that another size doesn't go on with these
                    predictions = self.results.root / WORK / method.name / method.sam2d / protocol / f"trial_{trial}"
                    left = [
                        fold
                        for fold in folds
                        if not self._measured(method, [protocol], fold, [trial])
                        or not all((predictions / f"{c}{self.data.file_ending}").is_file() for c in self.cases[fold])
                    ]
                    if left:
                        name = f"{EVALUATE}/{method.name}/{protocol}_trial_{trial}"
                        yield Step(name, self._sam2d_commands(method, protocol, trial, left, predictions), [])

    def _sam2d_commands(
        self, method: ComparedMethod, protocol: str, trial: int, folds: Sequence[int], predictions: Path
    ) -> list[Command]:
        clicks, root = self.results.prompts(protocol, trial), self.results.root
        draw = ["sam3d", "prompts", "-d", self.number, "-o", str(root), "--protocol", protocol]
        draw += ["--trials", str(trial + 1), *_repeated("-f", folds)]
        predict = ["sam3d", "predict-sam2d", "-d", self.number, "-i", str(self.data.images), "--continue"]
        predict += ["--prompts", str(clicks), "-o", str(predictions), "--model", method.sam2d, "--device", self.device]
        measure = [
            self._evaluate_command(method, fold)
            + ["--predictions", str(predictions), "--protocol", protocol, "--trial", str(trial)]
            for fold in folds
        ]
        return [draw, predict, *measure]

    def _evaluate_command(self, method: ComparedMethod, fold: int) -> Command:
        command = ["sam3d", "evaluate", "-d", self.number, "-f", str(fold), "-o", str(self.results.root)]
        return [*command, "--name", method.name, *_repeated("--tolerance", self.comparison.tolerances)]

    def _measured(self, method: ComparedMethod, protocols: Sequence[str], fold: int, trials: Iterable[int]) -> bool:
        tolerances = sorted(self.comparison.tolerances)
        return all(
            up_to_date(folder, self.data, self.cases[fold], tolerances)
            for protocol in map(Protocol.parse, protocols)
            for trial in ([0] if protocol.is_automatic else trials)
            for folder in _folders(self.results.predictions(method.name, protocol.name, str(fold), trial), protocol)
        )

    @property
    def _plans_names(self) -> list[str]:
        return list(dict.fromkeys(method.plans for method in self.trained))

    def _plans_file(self, plans: str) -> Path:
        return self._preprocessed / f"{plans}.json"

    def _model_folder(self, method: ComparedMethod) -> Path:
        return trained_model_folder(self.data.name, method.configuration, method.trainer, method.plans)

    def _plan_command(self, plans: str) -> Command:
        if _is_nnunets(plans):
            return ["nnUNetv2_plan_experiment", "-d", self.number, "-pl", NNUNET_PLANNERS[plans]]
        return ["sam3d", "plan", "-d", self.number, "--recipe", self.recipe, "--overwrite-plans-name", plans]

    def _preprocessed_folder(self, method: ComparedMethod) -> Path:
        """What the plans say; before there are any, what nnU-Net's planners will write.

        Its ResEnc planners share what its default planner preprocesses at full resolution.
        """
        file = self._plans_file(method.plans)
        if file.is_file():
            return self._preprocessed / _read_configuration(file, method.configuration).data_identifier
        shared = method.plans in NNUNET_PLANNERS and method.configuration in ("2d", "3d_fullres")
        plans = "nnUNetPlans" if shared else method.plans
        return self._preprocessed / f"{plans}_{method.configuration}"

    def _refuse_other_plans(self, name: str) -> None:
        """Plans that are there are used, so they have to be those that the recipe would write."""
        file = self._plans_file(name)
        if _is_nnunets(name):
            if name not in NNUNET_PLANNERS and not file.is_file():
                raise SAM3DError(
                    f"There are no plans {file}. Those that can be made are {', '.join(NNUNET_PLANNERS)}; make others "
                    "by nnUNetv2_plan_experiment."
                )
            return
        differs = differences(_read_plans(file), load_recipe(self.recipe)) if file.is_file() else []
        if differs:
            raise SAM3DError(
                f"{file} was planned with other values of {', '.join(differs)} than the recipe {self.recipe} has. Give "
                "the methods of the recipe plans of another name; or delete these, what was preprocessed "
                f"({self._preprocessed / name}_*) and trained (*__{name}__*) from them."
            )

    def _refuse_model_of_other_plans(self, method: ComparedMethod) -> None:
        """Plans may have been made anew, under the same name, since a model was trained; it keeps a copy of its own."""
        file, copy = self._plans_file(method.plans), self._model_folder(method) / "plans.json"
        if not (file.is_file() and copy.is_file()):
            return
        now, then = (self._as_trained(plans, method) for plans in (file, copy))
        differs = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
        if differs:
            raise SAM3DError(
                f"{copy.parent} was trained from plans with other values of {', '.join(differs)} than {file} has now. "
                "Delete the model and its predictions to train it anew, or give the method plans of another name."
            )

    def _as_trained(self, file: Path, method: ComparedMethod) -> dict[str, Any]:
        """All that a training takes from plans: what is common to configurations, and what one of them holds."""
        _read_configuration(file, method.configuration)
        plans = json.loads(file.read_text(encoding="utf-8"))
        trainer = find_trainer(method.trainer)
        if issubclass(trainer, PlannedTrainer):  # which writes into its copy what the plans leave open
            complete_settings(plans, method.configuration, self.data.dataset_json, trainer.changes, method.trainer)
        common = {key: value for key, value in plans.items() if key != "configurations"}
        return common | PlansManager(plans).get_configuration(method.configuration).configuration


def _is_nnunets(plans: str) -> bool:
    """Whether plans are used as nnU-Net, or its user, has made them."""
    return plans.startswith("nnUNet")


def _read_plans(file: Path) -> dict[str, Any]:
    try:
        plans = json.loads(file.read_text(encoding="utf-8"))
        plans["configurations"]["3d_fullres"]["patch_size"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise SAM3DError(f"{file} holds no plans with a configuration 3d_fullres: {type(e).__name__}: {e}.") from e
    return plans


def _read_configuration(file: Path, name: str) -> ConfigurationManager:
    try:
        configuration = PlansManager(str(file)).get_configuration(name)
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        raise SAM3DError(f"{file} has no configuration {name} that can be used: {e}") from e
    if configuration.previous_stage_name is not None:
        raise SAM3DError(f"The configuration {name} of {file} is the second stage of a cascade: leave it out.")
    return configuration


def _folders(folder: Path, protocol: Protocol) -> list[Path]:
    return [step_folder(folder, step) for step in protocol.steps] or [folder]


def _planned(plans: str) -> str:
    return f"{PREPARE}/{plans}"


def _trained(model: str, fold: int) -> str:
    return f"{TRAIN}/{model}/fold_{fold}"


def _repeated(option: str, values: Iterable[Any]) -> Command:
    return [word for value in values for word in (option, str(value))]
