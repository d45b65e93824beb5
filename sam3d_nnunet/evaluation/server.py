"""`sam3d evaluate --server`: methods that answer on a server, under the same protocols as models of ours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.data import EvaluationData, TestFolders
from sam3d_nnunet.evaluation.evaluate import Method, step_by_step
from sam3d_nnunet.evaluation.results import TEST
from sam3d_nnunet.evaluation.results_folder import ResultsFolder
from sam3d_nnunet.evaluation.server_answers import ServerModel
from sam3d_nnunet.evaluation.server_session import CLIENT, TIME_LIMIT, Capabilities, Server
from sam3d_nnunet.prediction.batch import CaseReport
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.simulation.protocols import AUTOMATIC, Protocol

UNKNOWN = ("trainer", "plans", "configuration", "parameters", "tuned_parameters", "training_hours", "device")
"""Facts in method.json that a server does not tell."""


def evaluate_server(
    url: str,
    results: str | Path,
    dataset: str,
    name: str,
    protocols: Sequence[str],
    folds: Sequence[str] = (),
    test: TestFolders | None = None,
    trials: int = 1,
    tolerances: Sequence[float] = (5.0,),
    time_limit: float = TIME_LIMIT,
) -> list[str]:
    """Predict cases on a server that speaks nnInteractive's protocol, and measure the predictions.

    Clicks, measurements and places are those of `evaluate`. Finished cases are not predicted again.

    Args:
        url: of the server.
        results: folder of results of the data set.
        dataset: id or name.
        name: of the method in the results.
        protocols: names, see `Protocol`; all but the automatic one.
        folds: numbers of the folds whose validation cases are predicted.
        test: a test set, instead of folds.
        trials: how many times clicks are drawn, where protocols draw them at random.
        tolerances: of the surface Dice, in mm.
        time_limit: seconds that the server may take for one answer, as in `Server`.

    Returns:
        place and name of each case that failed; the reasons have been printed.

    Raises:
        SAM3DError: the server, the data set or a protocol can't be used, or the results are about something else, or
            of a server with another model.
    """
    wanted = [Protocol.parse(protocol) for protocol in dict.fromkeys(protocols)]
    if any(protocol.is_automatic for protocol in wanted):
        raise SAM3DError(f"A server predicts from clicks only. Leave the protocol {AUTOMATIC} out.")
    data = EvaluationData.from_nnunet(dataset)
    data.refuse_many_classes(wanted)
    test_data = test and data.test_set(*test)
    runs = [(TEST, test_data.cases_with_truth())] if test_data else [(f, data.cases_of_fold(f)) for f in folds]
    server = Server(url, time_limit)
    capabilities = server.capabilities()
    boxes = [protocol.name for protocol in wanted if protocol.is_challenge and protocol.family.challenge.has_boxes]
    if boxes and capabilities.flat_boxes is None:
        raise SAM3DError(f"The model of the server {server.place} takes no boxes. Leave {', '.join(boxes)} out.")
    method, failures = _ServerMethod(ResultsFolder(results), name, server, capabilities), []
    method.claim(data, test_data)
    for fold, cases in runs:
        for protocol in wanted:
            for trial in range(trials if protocol.has_trials else 1):
                failures += method.run(test_data or data, protocol, fold, trial, cases, tolerances)
    return failures


@dataclass
class _ServerMethod(Method):
    """A model on a server."""

    server: Server
    capabilities: Capabilities

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": "prompted",
            **dict.fromkeys(UNKNOWN),
            "peak_memory_gib": None,
            "server": self.server.place,
            "client": f"{CLIENT} {self.server.client_version}",
            "time_limit": self.server.time_limit,
            **self._model(),
        }

    def settings(self, protocol: Protocol) -> dict[str, Any]:
        return self._model()

    def predict(
        self,
        data: EvaluationData,
        protocol: Protocol,
        trial: int,
        cases: Sequence[str],
        prompts: dict[str, Prompt],
        folders: list[Path],
    ) -> Iterator[tuple[Path, CaseReport]]:
        model = ServerModel(self.server, self.capabilities, data)
        return step_by_step(model, data, protocol, trial, folders).predict(prompts)

    def _model(self) -> dict[str, Any]:
        """What the server tells of its model. Its address is left out: another day it may be another."""
        found = self.capabilities
        return {
            "server_version": found.version,
            "licence": found.licence,
            "interactions": list(found.interactions),
            "autozoom": found.autozoom,
        }
