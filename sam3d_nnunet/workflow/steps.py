"""The commands of a comparison, as a user would type them, and which of them still have to run."""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from sam3d_nnunet.errors import SAM3DError, errors_in
from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.measure import up_to_date
from sam3d_nnunet.evaluation.results import WINDOWS, WORK, step_folders
from sam3d_nnunet.evaluation.results_folder import ResultsFolder, refuse_other_settings
from sam3d_nnunet.io import read_json_object
from sam3d_nnunet.nnunet.folders import dataset_number, preprocessed_root
from sam3d_nnunet.nnunet.names import find_trainer, takes_prompts, validation_folders
from sam3d_nnunet.nnunet.plans_content import check_configuration, check_plans
from sam3d_nnunet.planning.fingerprint import FINGERPRINT, is_clipped
from sam3d_nnunet.planning.plan_dataset import differences
from sam3d_nnunet.planning.recipes import load_recipe
from sam3d_nnunet.planning.settings import BEFORE, merge, parse_settings, trained_settings
from sam3d_nnunet.planning.settings import BLOCK as SETTINGS
from sam3d_nnunet.prediction.model_folder import FINAL, trained_model_folder
from sam3d_nnunet.simulation.protocols import AUTOMATIC, Protocol
from sam3d_nnunet.training.planned_trainer import PlannedTrainer, complete_settings
from sam3d_nnunet.workflow.comparison import ComparedMethod, Comparison, Run, used_as_they_are
from sam3d_nnunet.workflow.cut_off import has_whole_checkpoint, has_whole_json, has_whole_pickle, is_shorter

NNUNET_PLANNERS = {
    "nnUNetPlans": "ExperimentPlanner",
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
}
"""nnU-Net's planners by the name of the plans that they write. The recipe makes all other plans."""
PREPARE, TRAIN, EVALUATE = "prepare", "train", "evaluate"
FINGERPRINTED = f"{PREPARE}/fingerprint"
FULL_RESOLUTION = "3d_fullres"
CHECKPOINTS = (FINAL, "checkpoint_latest.pth", "checkpoint_best.pth")
"""nnUNetv2_train --c loads the first that is there."""

Command = list[str]


@dataclass(frozen=True)
class Step:
    """Commands to run one after the other.

    Attributes:
        name: KIND/WHAT/..., where KIND is one of PREPARE, TRAIN and EVALUATE.
        commands: with their arguments.
        needs: names of the steps that must be finished before.
    """

    name: str
    commands: list[Command]
    needs: list[str]

    @property
    def shell(self) -> str:
        """One line for a shell. It runs all commands, and fails if one of them fails."""
        tried = "; ".join(f"{shlex.join(command)} || failed=1" for command in self.commands)
        return f"failed=0; {tried}; exit $failed"


class Steps:
    """The steps of a comparison on a data set, from raw images to measured predictions."""

    def __init__(self, comparison: Comparison, recipe: str, dataset: str, results: str | Path, device: str) -> None:
        """
        Args:
            comparison: methods to compare, and how.
            recipe: its name, or a JSON file.
            dataset: id or name of a data set that has folds.
            results: folder of results of the data set.
            device: where to train and predict.

        Raises:
            SAM3DError: the data set has no such fold, a trainer can't be found, a method can't be evaluated, the
                results belong to something else, or there are plans that differ from those of the recipe.
        """
        self.comparison, self.recipe, self.device = comparison, recipe, device
        self.data = EvaluationData.from_nnunet(dataset)
        self.number = str(dataset_number(self.data.name))  # some of nnU-Net's commands take nothing else
        self.results = ResultsFolder(Path(results).absolute())
        self.cases = {fold: self.data.cases_of_fold(str(fold)) for fold in comparison.folds}
        with errors_in(f"The recipe {recipe}"):
            self.trained = [
                run for method in comparison.methods if method.trainer is not None for run in self._runs(method)
            ]
            self.protocols = {
                method.name: comparison.protocols if takes_prompts(find_trainer(method.trainer)) else [AUTOMATIC]
                for method in self.trained
            }
        self._preprocessed = preprocessed_root() / self.data.name
        self._check()

    def _runs(self, method: ComparedMethod) -> list[ComparedMethod]:
        """One training for each seed. nnU-Net's own trainers and plans know no seed: they are trained once."""
        is_seeded = not used_as_they_are(method.plans) and issubclass(find_trainer(method.trainer), PlannedTrainer)
        return [Run.of(method, seed) for seed in self.comparison.seeds if is_seeded] or [method]

    def _check(self) -> None:
        """Refuse now what would stop a step later, or mix results of different models."""
        self.data.raw.refuse_case_names()
        self.results.check_data(self.data)
        self.data.refuse_many_classes([Protocol.parse(name) for names in self.protocols.values() for name in names])
        sam2d = [method for method in self.comparison.methods if method.sam2d is not None]
        for method in (*self.trained, *sam2d):
            self.results.check_method(method.name, method.facts)
            if method.sam2d is not None and self.data.raw.listed is not None:
                raise SAM3DError(
                    f"The method {method.name} runs sam3d predict-sam2d, which needs all images in one folder, but the "
                    f"dataset.json of {self.data.name} lists them. Leave the method out."
                )
        for method in self._by_plans.values():
            self._refuse_wrong_settings(method)
            self._refuse_other_plans(method)
        for method in self.trained:
            self._refuse_model_of_other_plans(method)
            for fold in map(str, self.comparison.folds):
                self.results.refuse_other_weights(method.name, fold, self._model_folder(method), [fold], FINAL)
                self._refuse_other_windows(method, fold)

    def left(self) -> list[Step]:
        """Unfinished steps, in an order in which they can run."""
        steps = [*self._prepare(), *self._train(), *self._evaluate(), *self._evaluate_sam2d()]
        names = {step.name for step in steps}
        return [replace(step, needs=[name for name in step.needs if name in names]) for step in steps]

    def _prepare(self) -> Iterable[Step]:
        needed = self.trained or is_clipped(self.data.raw.dataset_json)  # 2-D SAM sees CT as it is clipped
        fingerprint = self._preprocessed / FINGERPRINT
        if needed and not has_whole_json(fingerprint):
            check = ["nnUNetv2_extract_fingerprint", "-d", self.number, "--verify_dataset_integrity"]
            yield Step(FINGERPRINTED, [*_remove([fingerprint]), check], [])
        for plans, method in self._by_plans.items():
            if not self._plans_file(plans).is_file():
                yield Step(_planned(plans), [self._plan_command(method)], [FINGERPRINTED])
        # methods can share a preprocessed folder, which only one step may write
        folders: dict[Path, ComparedMethod] = {}
        for method in self.trained:
            folders.setdefault(self._preprocessed_folder(method), method)
        for folder, method in folders.items():
            if not self._is_preprocessed(folder):
                command = ["nnUNetv2_preprocess", "-d", self.number, "-plans_name", method.plans]
                command += ["-c", method.configuration]
                # nnU-Net keeps a copy that is newer than its original
                commands = [*_remove(filter(self._is_cut_off, self._truth)), command]
                yield Step(f"{PREPARE}/{folder.name}", commands, [_planned(method.plans)])

    def _is_preprocessed(self, folder: Path) -> bool:
        """CASE.pkl is the last file that nnU-Net writes for a case; it copies the label maps at the end."""
        return all(has_whole_pickle(folder / f"{case}.pkl") for case in self.data.raw.cases_with_images) and all(
            copy.is_file() and not self._is_cut_off(copy) for copy in self._truth
        )

    @property
    def _truth(self) -> list[Path]:
        """The copies of the label maps that nnU-Net measures with."""
        folder, ending = self._preprocessed / "gt_segmentations", self.data.file_ending
        return [folder / f"{case}{ending}" for case in self.data.raw.cases_with_images]

    def _is_cut_off(self, copy: Path) -> bool:
        return is_shorter(copy, self.data.raw.label_file(copy.name.removesuffix(self.data.file_ending)))

    def _train(self) -> Iterable[Step]:
        for model, method in {method.model: method for method in self.trained}.items():
            folder = self._model_folder(method)
            needs = [_planned(method.plans), f"{PREPARE}/{self._preprocessed_folder(method).name}"]
            validated = validation_folders(find_trainer(method.trainer))
            for fold in self.comparison.folds:
                trained = folder / f"fold_{fold}"
                is_trained = has_whole_checkpoint(trained / FINAL)
                if is_trained and all(has_whole_json(trained / name / "summary.json") for name in validated):
                    continue
                command = ["nnUNetv2_train", self.number, method.configuration, str(fold), "-p", method.plans]
                # --c starts from the beginning if there is nothing to continue
                command += ["-tr", method.trainer, "-device", self.device, "--val" if is_trained else "--c"]
                files = [trained / name for name in CHECKPOINTS]
                commands = [*_remove(file for file in files if not has_whole_checkpoint(file)), command]
                yield Step(_trained(model, fold), commands, needs)

    def _evaluate(self) -> Iterable[Step]:
        for method in self.trained:
            protocols = self.protocols[method.name]
            for fold in self.comparison.folds:
                if self._measured(method, protocols, fold, range(self.comparison.trials)):
                    continue
                command = self._evaluate_command(method, fold)
                command += ["-c", method.configuration, "-tr", method.trainer, "-p", method.plans]
                command += ["--trials", str(self.comparison.trials), "--device", self.device]
                command += ["--windows", self.comparison.windows] if self.comparison.windows != "follow" else []
                command += [] if self.comparison.mirroring else ["--disable_tta"]
                command += _repeated("--protocol", protocols)
                yield Step(f"{EVALUATE}/{method.name}/fold_{fold}", [command], [_trained(method.model, fold)])

    def _evaluate_sam2d(self) -> Iterable[Step]:
        """One step for each set of clicks, with all folds, since SAM isn't trained."""
        folds, clipped = self.comparison.folds, "_clipped" if is_clipped(self.data.raw.dataset_json) else ""
        for method in (method for method in self.comparison.methods if method.sam2d is not None):
            for protocol in self.comparison.slice_protocols:
                for trial in range(self.comparison.trials):
                    # of their own, so that another size of SAM, or clipped CT, doesn't continue these predictions
                    place = f"{method.name}/{method.sam2d}{clipped}/{protocol}/trial_{trial}"
                    predictions = self.results.root / WORK / place
                    left = [
                        fold
                        for fold in folds
                        if not self._measured(method, [protocol], fold, [trial])
                        or not all((predictions / f"{c}{self.data.file_ending}").is_file() for c in self.cases[fold])
                    ]
                    if left:
                        name = f"{EVALUATE}/{method.name}/{protocol}_trial_{trial}"
                        commands = self._sam2d_commands(method, protocol, trial, left, predictions)
                        yield Step(name, commands, [FINGERPRINTED])

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
        command += ["--name", method.name, *_repeated("--tolerance", self.comparison.tolerances)]
        return command + (["--run-of", method.run_of.name] if isinstance(method, Run) else [])

    def _measured(self, method: ComparedMethod, protocols: Sequence[str], fold: int, trials: Iterable[int]) -> bool:
        tolerances = sorted(self.comparison.tolerances)
        return all(
            up_to_date(folder, self.data, self.cases[fold], tolerances)
            for protocol in map(Protocol.parse, protocols)
            for trial in (trials if protocol.has_trials else [0])
            for folder in step_folders(self.results.predictions(method.name, protocol.name, str(fold), trial), protocol)
        )

    @property
    def _by_plans(self) -> dict[str, ComparedMethod]:
        """Each plans' name with one of the methods that are trained with these plans."""
        return {method.plans: method for method in self.trained}

    def _plans_file(self, plans: str) -> Path:
        return self._preprocessed / f"{plans}.json"

    def _model_folder(self, method: ComparedMethod) -> Path:
        return trained_model_folder(self.data.name, method.configuration, method.trainer, method.plans)

    def _plan_command(self, method: ComparedMethod) -> Command:
        if used_as_they_are(method.plans):
            return ["nnUNetv2_plan_experiment", "-d", self.number, "-pl", NNUNET_PLANNERS[method.plans]]
        unseeded = method.run_of if isinstance(method, Run) else method
        command = ["sam3d", "plan", "-d", self.number, "--recipe", self.recipe]
        command += ["--overwrite-plans-name", unseeded.plans]
        command += ["--settings", json.dumps(method.sam3d)] if method.sam3d else []
        command += ["--data-plans", method.data_plans] if method.data_plans != unseeded.plans else []
        return command + (["--seed", str(method.seed)] if isinstance(method, Run) else [])

    def _preprocessed_folder(self, method: ComparedMethod) -> Path:
        """The folder that the plans name; without plans yet, the one that nnU-Net's planners will name.

        Its ResEnc planners share the preprocessed data of its default planner at full resolution.
        """
        file = self._plans_file(method.plans)
        if file.is_file():
            return self._preprocessed / _read_configuration(file, method.configuration).data_identifier
        shared = method.plans in NNUNET_PLANNERS and method.configuration in ("2d", "3d_fullres")
        plans = "nnUNetPlans" if shared else method.data_plans
        return self._preprocessed / f"{plans}_{method.configuration}"

    def _refuse_wrong_settings(self, method: ComparedMethod) -> None:
        if method.sam3d:
            block = merge(load_recipe(self.recipe).get(SETTINGS, {}), method.sam3d)
            parse_settings(block, f"the recipe {self.recipe} for the method {method.name}")

    def _refuse_other_plans(self, method: ComparedMethod) -> None:
        """Existing plans are used, so they must be the plans that the recipe would write."""
        name = method.plans
        file = self._plans_file(name)
        if used_as_they_are(name):
            if name not in NNUNET_PLANNERS and not file.is_file():
                raise SAM3DError(
                    f"There are no plans {file}. sam3d benchmark makes {', '.join(NNUNET_PLANNERS)} itself; make other "
                    "plans with nnUNetv2_plan_experiment first."
                )
            return
        seed = {"seed": method.seed} if isinstance(method, Run) else {}
        recipe = merge(load_recipe(self.recipe), {SETTINGS: method.sam3d | seed})
        differs = differences(_read_plans(file, FULL_RESOLUTION), recipe, str(file)) if file.is_file() else []
        if differs:
            raise SAM3DError(
                f"{file} differs from the recipe {self.recipe} in {', '.join(differs)}. Give the methods of the recipe "
                "another name for their plans, or delete these plans, the data preprocessed with them "
                f"({self._preprocessed / name}_*) and the models trained with them (*__{name}__*)."
            )

    def _refuse_other_windows(self, method: ComparedMethod, fold: str) -> None:
        """The windows of predictions from clicks may have been others when the method was measured."""
        for protocol in map(Protocol.parse, self.protocols[method.name]):
            for trial in range(self.comparison.trials if not protocol.is_automatic else 0):
                folder = self.results.predictions(method.name, protocol.name, fold, trial)
                refuse_other_settings(folder, {WINDOWS: self.comparison.windows})

    def _refuse_model_of_other_plans(self, method: ComparedMethod) -> None:
        """Plans can be replaced under the same name after a training, which keeps a copy of those that it used."""
        file, copy = self._plans_file(method.plans), self._model_folder(method) / "plans.json"
        if not (file.is_file() and copy.is_file()):
            return
        now, then = self._used(file, method), self._used(copy, method, by_a_training=True)
        differs = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
        if differs:
            raise SAM3DError(
                f"{copy.parent} was trained with other plans: {file} now differs in {', '.join(differs)}. Delete the "
                "model and its predictions to train it again, or give the method another name for its plans."
            )

    def _used(self, file: Path, method: ComparedMethod, by_a_training: bool = False) -> dict[str, Any]:
        """All that a training takes from plans: the part common to all configurations, and one configuration.

        Args:
            file: plans, or the copy in a model folder.
            method: to train with them.
            by_a_training: whether they are the copy, in which older trainings did not write down all settings.
        """
        plans = _read_plans(file, method.configuration)
        trainer = find_trainer(method.trainer)
        if issubclass(trainer, PlannedTrainer):  # it completes the settings in its copy of the plans
            configuration = plans["configurations"][method.configuration]
            if by_a_training:
                block = configuration.get(SETTINGS, {})
                keys = trainer.written_since(trained_settings(block, str(file)))
                configuration[SETTINGS] = {key: BEFORE[key] for key in keys} | block
            complete_settings(plans, method.configuration, self.data.dataset_json, trainer)
        common = {key: value for key, value in plans.items() if key != "configurations"}
        return common | PlansManager(plans).get_configuration(method.configuration).configuration


def _read_plans(file: Path, configuration: str) -> dict[str, Any]:
    """Plans that hold all that a training takes of a configuration."""
    plans = read_json_object(file)
    hint = "Correct the plans, or delete them to make them again."
    check_plans(plans, file, hint)
    check_configuration(plans, configuration, file, hint)
    return plans


def _read_configuration(file: Path, name: str) -> ConfigurationManager:
    configuration = PlansManager(_read_plans(file, name)).get_configuration(name)
    if configuration.previous_stage_name is not None:
        raise SAM3DError(f"The configuration {name} of {file} is the second stage of a cascade. Leave it out.")
    return configuration


def _remove(files: Iterable[Path]) -> list[Command]:
    """The command that deletes those files that are there, since nnU-Net would go on with them; none if none is."""
    there = [str(file) for file in files if file.is_file()]
    return [["rm", "-f", *there]] if there else []


def _planned(plans: str) -> str:
    return f"{PREPARE}/{plans}"


def _trained(model: str, fold: int) -> str:
    return f"{TRAIN}/{model}/fold_{fold}"


def _repeated(option: str, values: Iterable[Any]) -> Command:
    return [word for value in values for word in (option, str(value))]
