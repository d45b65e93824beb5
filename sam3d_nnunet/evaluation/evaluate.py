"""`sam3d evaluate`: predict with drawn clicks, then measure."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sam3d_nnunet.datasets.splits import fold_notes, read_splits, splits_file
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.answers import AnsweringModel, PredictorModel
from sam3d_nnunet.evaluation.challenge_prediction import ChallengePrediction
from sam3d_nnunet.evaluation.data import EvaluationData, TestFolders
from sam3d_nnunet.evaluation.drawn_prompts import drawn_prompts
from sam3d_nnunet.evaluation.each_prediction import EachPrediction
from sam3d_nnunet.evaluation.measure import measure, print_failed
from sam3d_nnunet.evaluation.model import EvaluatedModel, PredictionOptions
from sam3d_nnunet.evaluation.protocol_prediction import IteratedPrediction, predict_automatic, predict_prompted_cases
from sam3d_nnunet.evaluation.results import PREDICTION, TEST, WEIGHTS, WINDOWS, step_folders
from sam3d_nnunet.evaluation.results_folder import ResultsFolder, cases_without_cost, check_settings, outdated_scores
from sam3d_nnunet.io import listing, read_json_object, remove_left
from sam3d_nnunet.prediction.batch import CaseReport
from sam3d_nnunet.prediction.model_folder import choose_folds, read_plans
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.simulation.protocols import AUTOMATIC, PAPER, Protocol


def evaluate(
    model_folder: str | Path,
    results: str | Path,
    folds: Sequence[str] = (),
    protocols: Sequence[str] = (AUTOMATIC,),
    trials: int = 1,
    options: PredictionOptions | None = None,
    name: str | None = None,
    dataset: str | None = None,
    test: TestFolders | None = None,
    tolerances: Sequence[float] = (5.0,),
    run_of: str | None = None,
) -> list[str]:
    """Predict the validation cases of folds, or a test set, under protocols, and measure the predictions.

    Finished cases are not predicted again, and predictions of an earlier training of the model are refused. Clicks are
    drawn once for each data set, protocol and trial.

    Args:
        model_folder: TRAINER__PLANS__CONFIGURATION.
        results: folder of results of the data set, as `evaluation.results.Results` reads it.
        folds: numbers; default: all trained folds. Their ensemble predicts a test set.
        protocols: names, see `Protocol`.
        trials: how many times clicks are drawn, where protocols draw them at random.
        options: of the predictions.
        name: of the method in the results; default: that of the model folder.
        dataset: id or name; default: the data set that the model was trained on.
        test: a test set, instead of the validation cases.
        tolerances: of the surface Dice, in mm.
        run_of: the method of which this model is one of several trainings; tables pool them under this name.

    Returns:
        place and name of each case that failed; the reasons have been printed.

    Raises:
        SAM3DError: the model, the data set or a protocol can't be used, the results belong to other data or to another
            training of the model, or a fold was trained on other splits.
    """
    folder, options = Path(model_folder), options or PredictionOptions()
    wanted = [Protocol.parse(protocol) for protocol in dict.fromkeys(protocols)]
    data = EvaluationData.from_nnunet(dataset or read_plans(folder)["dataset_name"])
    data.refuse_many_classes(wanted)
    test_data = test and data.test_set(*test)
    fixed = [protocol.name for protocol in wanted if protocol.asks_repeatedly]
    if options.per_lesion and fixed:
        raise SAM3DError(
            f"{listing(fixed)} says itself which lesions are predicted together. Leave it out, or --per-lesion."
        )
    chosen = choose_folds(folder, folds or None, options.checkpoint)
    if not folds and chosen == ["all"]:
        raise SAM3DError(
            f"{folder} has no numbered fold with {options.checkpoint}, but fold_all, which has no validation cases. "
            "Evaluate it on a test set (--test) with -f all."
        )
    if test_data:
        runs = [(TEST, chosen, test_data.cases_with_truth())]
    else:
        runs = [(fold, [fold], data.cases_of_fold(fold)) for fold in chosen]
        for fold, _, cases in runs:
            _refuse_other_splits(folder, fold, data, cases)
            for note in fold_notes(int(fold), read_splits(splits_file(data.name))[int(fold)]):
                tqdm.write(f"{splits_file(data.name)}: {note}", file=sys.stderr)
    root, name, failures = ResultsFolder(results), name or folder.resolve().name, []
    for fold, ensemble, _ in runs:
        root.refuse_other_weights(name, fold, folder, ensemble, options.checkpoint)
    for fold, ensemble, cases in runs:
        model = EvaluatedModel(folder, ensemble, options)
        _refuse_clicks(model, wanted)
        method = _ModelMethod(root, name, model, run_of)
        method.claim(data, test_data)
        for protocol in wanted:
            for trial in range(trials if protocol.has_trials else 1):
                failures += method.run(test_data or data, protocol, fold, trial, cases, tolerances)
        method.write_facts()
    return failures


def evaluate_as_in_paper(
    model_folder: str | Path,
    results: str | Path,
    folds: Sequence[str] = (),
    trials: int = 1,
    options: PredictionOptions | None = None,
    **more: object,
) -> list[str]:
    """`evaluate` with fold 0, the protocols `PAPER`, and the windows of the paper.

    A model that takes no clicks is evaluated without clicks only. Arguments and errors are those of `evaluate`.
    """
    options = (options or PredictionOptions()).as_in_paper()
    folds = list(folds) or ["0"]
    takes_clicks = EvaluatedModel(Path(model_folder), folds, options).takes_clicks
    protocols = [protocol.name for protocol in PAPER if takes_clicks or protocol.is_automatic]
    return evaluate(model_folder, results, folds, protocols, trials, options, **more)


def _refuse_other_splits(model: Path, fold: str, data: EvaluationData, cases: Sequence[str]) -> None:
    """Refuse cases that nnU-Net did not validate after the training: the fold may have been trained on them."""
    file = model / f"fold_{fold}" / "validation" / "summary.json"
    if not file.is_file():  # without a final validation only splits_final.json tells
        return
    hint = (
        f"It says which cases fold {fold} was not trained on. Have nnU-Net write it again with the splits of the "
        "training: nnUNetv2_train with --val."
    )
    validated = read_json_object(file, ["metric_per_case"], hint)["metric_per_case"]
    try:
        names = {Path(case["prediction_file"]).name.removesuffix(data.file_ending) for case in validated}
    except (KeyError, TypeError) as e:
        raise SAM3DError(f"{file} lists no cases with a prediction_file. {hint}") from e
    if names != set(cases):
        sides = ((set(cases) - names, splits_file(data.name)), (names - set(cases), file))
        only = " and ".join(f"{listing(which)} only in {where}" for which, where in sides if which)
        raise SAM3DError(
            f"Fold {fold} of {model} was validated on other cases than it would be evaluated on now: {only}. It may "
            "have been trained on these cases. Put the splits_final.json of the training back (and name no other data "
            "set), or train the fold again into an empty folder. Use --test for other images."
        )


def _refuse_clicks(model: EvaluatedModel, protocols: Sequence[Protocol]) -> None:
    prompted = [protocol.name for protocol in protocols if not protocol.is_automatic]
    if prompted and not model.takes_clicks:
        raise SAM3DError(
            f"{model.folder} was trained with {model.trainer}, which takes no clicks. It can't be evaluated under "
            f"{', '.join(prompted)}. Choose the protocol {AUTOMATIC}."
        )


def step_by_step(
    model: AnsweringModel, data: EvaluationData, protocol: Protocol, trial: int, folders: list[Path]
) -> IteratedPrediction:
    """Predicts cases click by click, round by round, or lesion by lesion.

    Args:
        model: answers the clicks.
        data: holds images and truth.
        protocol, trial: of the clicks.
        folders: for the predictions, one for each step.
    """
    kind = IteratedPrediction
    if protocol.is_challenge:
        kind = ChallengePrediction
    elif protocol.family.is_one_by_one:
        kind = EachPrediction
    return kind(model, data, protocol, trial, folders)


@dataclass
class Method(ABC):
    """What is evaluated, and its place in the results.

    Attributes:
        results: of all methods.
        name: of its folder there.
        predicted: whether this run predicted any case; all of them may be finished.
    """

    results: ResultsFolder
    name: str
    predicted: bool = field(default=False, init=False)

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The content of method.json."""

    @abstractmethod
    def settings(self, protocol: Protocol) -> dict[str, Any]:
        """Those of predictions that must not be mixed with others."""

    @abstractmethod
    def predict(
        self,
        data: EvaluationData,
        protocol: Protocol,
        trial: int,
        cases: Sequence[str],
        prompts: dict[str, Prompt],
        folders: list[Path],
    ) -> Iterator[tuple[Path, CaseReport]]:
        """Predict cases into folders, one for each step of the protocol. Each report comes with its folder.

        Args:
            data: holds images and truth.
            protocol, trial: of the clicks.
            cases: names.
            prompts: drawn clicks on them, unless the protocol is automatic.
            folders: for the predictions.
        """

    def claim(self, data: EvaluationData, test: EvaluationData | None) -> None:
        """Write what the results are about, or refuse them."""
        self.results.check_method(self.name, self.facts())  # before anything is written
        self.results.claim(data, test)
        self.write_facts()

    def write_facts(self) -> None:
        """Write method.json."""
        facts = self.facts()
        if not self.predicted:  # the predictions may be from another device
            facts |= {"device": None, "peak_memory_gib": None}
        self.results.write_method(self.name, facts)

    def run(
        self,
        data: EvaluationData,
        protocol: Protocol,
        fold: str,
        trial: int,
        cases: Sequence[str],
        tolerances: Sequence[float],
    ) -> list[str]:
        """Predict and measure unfinished cases in one folder. Returns place and name of the cases that failed."""
        folder = self.results.predictions(self.name, protocol.name, fold, trial)
        check_settings(folder, self.settings(protocol))
        folders = step_folders(folder, protocol)
        for where in folders:
            remove_left(where)  # of killed runs, also if there is nothing more to write
        prompts, failed = {}, {}
        if not protocol.is_automatic:
            prompts, failed = drawn_prompts(data, protocol, trial, cases, self.results.prompts(protocol.name, trial))
        ending = data.file_ending
        left = [c for c in cases if c not in failed and not all((f / f"{c}{ending}").is_file() for f in folders)]
        if left and not self.predicted:
            self.predicted = True
            self.write_facts()  # now, since this may be interrupted
        for where in folders:
            _say_what_lacks_costs(where, [case for case in cases if (where / f"{case}{ending}").is_file()])
        prompts = {case: prompts[case] for case in left if case in prompts}
        reports = self.predict(data, protocol, trial, left, prompts, folders) if left else ()
        place, clicks, outside, capped = str(folder.relative_to(self.results.root)), 0, 0, set()
        with tqdm(total=len(left) * len(folders), desc=place, unit="case", disable=not left) as bar:
            for _, report in reports:
                bar.update()
                if report.error is None:
                    clicks, outside = clicks + report.clicks, outside + report.outside
                    capped |= {report.name} if report.hit_cap else set()
                else:
                    failed[report.name] = report.error
        if outside:
            tqdm.write(f"{place}: {outside} of {clicks} click(s) outside the window were not used", file=sys.stderr)
        if capped:
            limit = "the largest number of windows (--max-windows) was reached, and masks may be too small"
            tqdm.write(f"{place}: in {len(capped)} of {len(left)} case(s), {limit}", file=sys.stderr)
        # if all failed, measuring would replace the reasons by "no prediction"
        for where in folders if len(failed) < len(cases) else ():
            failed = measure(where, data, cases, tolerances) | failed
            if not data.labels.has_regions:
                failed = outdated_scores(where) | failed
        return print_failed(place, failed)


def _say_what_lacks_costs(folder: Path, predicted: Sequence[str]) -> None:
    if lacking := cases_without_cost(folder, predicted):
        tqdm.write(
            f"{folder / PREDICTION} lacks {listing(lacking)}: an earlier version was interrupted. Tables show the "
            "seconds of the others. Delete these predictions to have them predicted again.",
            file=sys.stderr,
        )


@dataclass
class _ModelMethod(Method):
    """A trained model."""

    model: EvaluatedModel
    run_of: str | None

    def claim(self, data: EvaluationData, test: EvaluationData | None) -> None:
        super().claim(data, test)
        self.results.keep_splits(self.name, splits_file(data.name))

    def facts(self) -> dict[str, Any]:
        return self.model.facts(self.name) | ({} if self.run_of is None else {"run_of": self.run_of})

    def predict(
        self,
        data: EvaluationData,
        protocol: Protocol,
        trial: int,
        cases: Sequence[str],
        prompts: dict[str, Prompt],
        folders: list[Path],
    ) -> Iterator[tuple[Path, CaseReport]]:
        if protocol.asks_repeatedly:
            model = PredictorModel(self.model.prompted, lambda: self.model.automatic)
            return step_by_step(model, data, protocol, trial, folders).predict(prompts)
        folder = folders[0]
        if protocol.is_automatic:
            reports = predict_automatic(self.model.automatic, data, cases, folder)
        else:
            clicks = self.results.prompts(protocol.name, trial)
            per_lesion = self.model.options.per_lesion
            reports = predict_prompted_cases(self.model.prompted, data, prompts, clicks, folder, per_lesion)
        return ((folder, report) for report in reports)

    def settings(self, protocol: Protocol) -> dict[str, Any]:
        options = self.model.options
        settings = {"folds": self.model.folds, "checkpoint": options.checkpoint, WEIGHTS: self.model.fingerprints}
        settings["mirroring"] = options.mirroring
        if protocol.is_automatic:
            return settings | {"step": options.step, "gaussian": options.gaussian}
        if protocol.is_challenge and not protocol.family.challenge.has_boxes:  # starts with an automatic prediction
            settings |= {"step": options.step, "gaussian": options.gaussian}
        settings |= {"max_windows": options.max_windows, "per_lesion": options.per_lesion}
        return settings | {WINDOWS: options.windows}
