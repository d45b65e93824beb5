"""What full disks, kills and second trainings of a fold leave behind."""

import errno
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

import sam3d_nnunet.training.fold_claim as fold_claim
import sam3d_nnunet.training.whole_outputs as whole_outputs
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import PART
from sam3d_nnunet.processes import shared_lock
from sam3d_nnunet.training.fold_claim import LOCK, claim_fold
from sam3d_nnunet.training.planned_trainer import CONTINUE, VALIDATE_AGAIN
from sam3d_nnunet.training.variants import SAM3DAdapterTrainer_smoke


class ShortTrainer(SAM3DAdapterTrainer_smoke):
    """1 epoch of 1 step."""

    changes = SAM3DAdapterTrainer_smoke.changes | {"num_epochs": 1, "steps_per_epoch": 1, "validation_steps": 1}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """In this context, files can't grow beyond a size in bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="Windows has no largest size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: str | Path) -> dict[str, bytes]:
    """All files but logs."""
    files = (file for file in Path(folder).rglob("*") if file.is_file() and file.suffix != ".txt")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_checkpoints_stay_whole_on_a_full_disk(make_trainer):
    trainer = make_trainer()
    trainer.initialize()
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    before = content(trainer.output_folder)
    for size in (0, 100, 10_000, file.stat().st_size - 1):  # the last cuts off the end of the archive
        for name in ("checkpoint_latest.pth", "checkpoint_final.pth"):
            with largest_file(size), pytest.raises(OSError) as error:
                trainer.save_checkpoint(str(file.with_name(name)))
            assert error.value.errno == errno.EFBIG and error.value.filename == str(file.with_name(name))
    assert content(trainer.output_folder) == before
    assert not list(file.parent.glob(f"{PART}*"))


def test_other_errors_of_saving_are_shown_as_they_are(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.initialize()
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("no storage")))
    with pytest.raises(RuntimeError, match="no storage"):
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))


def test_a_full_disk_ends_a_training_by_a_sentence(make_trainer, capsys):
    """Copies of plans, which the model's other folds need, stay whole; with room, --c goes on."""
    trainer = make_trainer(trainer_class=ShortTrainer)
    model = Path(trainer.output_folder_base)
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json", "fold_0/debug.json", "fold_0/progress.png"):
        (model / name).write_text("as it was")
    before = content(model)
    for size, place in ((2_500, "plans.json"), (100_000, "fold_0/checkpoint_best.pth")):
        with largest_file(size), pytest.raises(SAM3DError) as error:
            trainer.run_training()
        assert str(error.value) == f"{model / place}: {os.strerror(errno.EFBIG)}. Make room there and {CONTINUE}."
        assert not list(model.rglob(f"{PART}*"))
        if place == "plans.json":
            assert content(model) == before
            assert f"{trainer.log_file}: {os.strerror(errno.EFBIG)}" in capsys.readouterr().out
        trainer = make_trainer(trainer_class=ShortTrainer, continue_training=True)
    trainer.run_training()
    assert json.loads((model / "plans.json").read_text())["plans_name"] == "SAM3DPlans"
    assert "num_epochs" in json.loads((model / "fold_0" / "debug.json").read_text())
    fingerprint = Path(trainer.preprocessed_dataset_folder_base) / "dataset_fingerprint.json"
    assert (model / "dataset_fingerprint.json").read_bytes() == fingerprint.read_bytes()
    assert (model / "fold_0" / "progress.png").read_bytes().startswith(b"\x89PNG")
    torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)


def test_loaders_end_with_a_training_that_fails(make_trainer, monkeypatch):
    """Otherwise their threads print tracebacks after the sentence."""
    trainer = make_trainer(trainer_class=ShortTrainer)
    trainer.dataloader_train = loader = Mock()
    monkeypatch.setattr(trainer, "on_train_start", Mock(side_effect=SAM3DError("The disk is full.")))
    with pytest.raises(SAM3DError):
        trainer.run_training()
    loader._finish.assert_called_once_with()


@pytest.fixture
def in_this_process(monkeypatch) -> None:
    """nnU-Net's validation without other processes, which take seconds to start."""

    class Pool:
        _pool = ()

        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def starmap(self, work, arguments):
            return [work(*given) for given in arguments]

        def starmap_async(self, work, arguments):
            done = self.starmap(work, arguments)
            return type("Done", (), {"get": lambda _: done, "ready": lambda _: True})()

    monkeypatch.setattr("multiprocessing.context.BaseContext.Pool", lambda *_: Pool())
    monkeypatch.setattr(upstream, "check_workers_alive_and_busy", lambda *_, **__: False)


@pytest.mark.parametrize(("writer", "size"), [("whole_files", 0), ("whole_files", 100), ("whole_file", 100)])
def test_a_full_disk_ends_a_validation_by_a_sentence(make_trainer, in_this_process, monkeypatch, writer, size):
    """No segmentation is cut off, and no summary says what was measured earlier."""
    trainer = make_trainer(trainer_class=ShortTrainer)
    trainer.on_train_start()
    trainer.inference_allowed_mirroring_axes = None  # an eighth of the time
    folders = [Path(trainer.output_folder) / name for name in ("validation", "validation_1click")]
    for folder in folders:
        folder.mkdir()
        (folder / "summary.json").write_text("of earlier weights")
    write = getattr(whole_outputs, writer)

    @contextmanager
    def write_with_little_room(*arguments, **options):
        with write(*arguments, **options) as part, largest_file(size):
            yield part

    with monkeypatch.context() as full, pytest.raises(SAM3DError) as error:
        full.setattr(whole_outputs, writer, write_with_little_room)
        trainer.perform_actual_validation(save_probabilities=True)
    assert str(error.value).startswith(str(folders[0]))
    assert str(error.value).endswith(f". Make room there and {VALIDATE_AGAIN}.")
    there = {file.name for file in Path(trainer.output_folder).rglob("validation*/*")}
    assert "summary.json" not in there and (writer == "whole_file") == bool(there)
    if writer == "whole_file":
        trainer.perform_actual_validation(save_probabilities=True)
        for folder in folders:
            assert len(json.loads((folder / "summary.json").read_text())["metric_per_case"]) == 2
            assert len(list(folder.glob("*.nii.gz"))) == len(list(folder.glob("*.npz"))) == 2


def test_summaries_of_earlier_weights_go_before_the_weights_do(make_trainer, monkeypatch):
    trainer = make_trainer(trainer_class=ShortTrainer)
    summary = Path(trainer.output_folder) / "validation" / "summary.json"
    summary.parent.mkdir()
    summary.write_text("of earlier weights")
    saved = []
    monkeypatch.setattr(trainer, "save_checkpoint", lambda name: saved.append((Path(name).name, summary.exists())))
    trainer.run_training()
    assert saved == [("checkpoint_best.pth", True), ("checkpoint_final.pth", False)]


HOLD = """
import sys
from pathlib import Path
from sam3d_nnunet.training.fold_claim import claim_fold
claim = claim_fold(Path(sys.argv[1]))
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="a kill is something else on Windows")
def test_a_fold_is_trained_by_one_process(make_trainer, monkeypatch):
    """A kill frees it; what the killed process left goes at once, before the new one writes."""
    trainer = make_trainer()
    folder = Path(trainer.output_folder)
    again = make_trainer()  # this process has claimed it
    assert again.claim is trainer.claim
    del trainer, again
    make_trainer.loaders.clear()
    gc.collect()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "claimed\n"
    logs = len(list(folder.glob("*.txt")))
    with monkeypatch.context() as impatient, pytest.raises(SAM3DError, match=f"{folder} is in use"):
        impatient.setattr(fold_claim, "GRACE", 0.2)
        make_trainer()
    assert len(list(folder.glob("*.txt"))) == logs
    other.kill()
    other.wait()
    for left in (folder / f"{PART}a", folder / "validation" / f"{PART}b"):
        left.mkdir(parents=True)
        (left / "checkpoint_latest.pth").write_text("half")
    make_trainer()
    assert not list(folder.rglob(f"{PART}*"))


def test_a_fold_where_nothing_can_be_locked_is_trained(tmp_path, monkeypatch):
    @contextmanager
    def refuse(path, wait):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        yield

    monkeypatch.setattr("sam3d_nnunet.training.fold_claim.shared_lock", refuse)
    assert claim_fold(tmp_path / "fold_0") is claim_fold(tmp_path / "fold_0")


def test_a_claim_ends_with_the_last_that_holds_it(tmp_path):
    one, other = claim_fold(tmp_path), claim_fold(tmp_path)
    del one
    with pytest.raises(BlockingIOError), shared_lock(tmp_path / LOCK):
        pass
    del other
    with shared_lock(tmp_path / LOCK):
        pass


def test_other_ranks_claim_nothing(make_trainer, monkeypatch):
    monkeypatch.setattr("sam3d_nnunet.training.planned_trainer.is_distributed", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    assert not hasattr(make_trainer(), "claim")


def test_nnunets_writers_take_what_theirs_do(tmp_path):
    whole_outputs.save_whole_json({"b": 1, "a": 2}, str(tmp_path / "whole.json"), sort_keys=False)
    save_json({"b": 1, "a": 2}, str(tmp_path / "theirs.json"), sort_keys=False)
    assert (tmp_path / "whole.json").read_bytes() == (tmp_path / "theirs.json").read_bytes()


@pytest.mark.parametrize("ending", [".b2nd", ".pkl"])
def test_a_case_whose_preprocessing_was_cut_off_is_named(make_trainer, prepared, monkeypatch, tmp_path, ending):
    base = prepared("one class").base
    shutil.copytree(base, tmp_path / "preprocessed" / base.name)
    trainer = make_trainer("one class")
    trainer.preprocessed_dataset_folder_base = str(tmp_path / "preprocessed" / base.name)
    trainer.preprocessed_dataset_folder = str(Path(trainer.preprocessed_dataset_folder_base, "SAM3DPlans_3d_fullres"))
    file = Path(trainer.preprocessed_dataset_folder, f"case_1{ending}")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(SAM3DError, match=r"case_1 in .* can't be read: .*\. Preprocess it again\."):
        trainer.on_train_start()
