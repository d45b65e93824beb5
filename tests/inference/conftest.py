"""Model folders without training, and the data sets they belong to."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

spec = importlib.util.spec_from_file_location("training_fixtures", Path(__file__).parents[1] / "training/conftest.py")
training_fixtures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(training_fixtures)
make_trainer, prepared, results, one_thread = (
    getattr(training_fixtures, name) for name in ("make_trainer", "prepared", "results", "one_thread")
)


def randomize(network: nn.Module, seed: int) -> None:
    """Random weights where a new network has zeros, so that prompts have an effect on the random logits."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        noise = 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.data = torch.where(parameter == 0, noise, parameter)


@pytest.fixture
def make_model(prepared, make_trainer) -> Callable[..., SimpleNamespace]:
    """Writes the folder of an untrained model: `.folder`, `.images` and `.labels` (of its data set), `.trainer`."""

    def make(
        kind: str = "classes", folds: tuple[int | str, ...] = (0,), reader: str | None = None, **options
    ) -> SimpleNamespace:
        for fold in folds:
            trainer = make_trainer(kind, **options)
            trainer.initialize()
            randomize(trainer.network, seed=len(str(fold)) if fold == "all" else fold)
            folder = Path(trainer.output_folder_base)
            (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))
        plans = trainer.plans_manager.plans | ({"image_reader_writer": reader} if reader else {})
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(trainer.dataset_json))
        raw = prepared(kind).root / "raw" / prepared(kind).name
        return SimpleNamespace(folder=folder, images=raw / "imagesTr", labels=raw / "labelsTr", trainer=trainer)

    return make
