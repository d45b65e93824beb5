import importlib.metadata
import os
import sys
from types import SimpleNamespace

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.nnunet import doctor, registration


@pytest.fixture
def registered(monkeypatch):
    """Set what registration finds, and forget nnUNet_extTrainer."""
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)

    def set_states(*states: str) -> None:
        monkeypatch.setattr(registration, "status", lambda: dict(zip("ab", states, strict=True)))

    return set_states


def test_line_of_a_finding():
    assert str(doctor.Finding("ok", "torch", "2.4")) == "[ ok ] torch: 2.4"
    assert str(doctor.Finding("FAIL", "torch", "none", "install it")) == "[FAIL] torch: none -> install it"


def test_everything_is_examined_once():
    subjects = [finding.subject for finding in doctor.examine()]
    folders = ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"]
    installed = ["Python", "torch", "GPU", "OMP_WAIT_POLICY", "nnunetv2"]
    assert subjects == [*installed, *folders, "registration", "SAM weights"]


def test_missing_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor.check_torch().mark == "FAIL"
    assert doctor.check_gpu().mark == "note"


@pytest.mark.parametrize("cuda, mps, mark", [(True, False, "ok"), (False, True, "ok"), (False, False, "note")])
def test_gpu(monkeypatch, cuda, mps, mark):
    card = SimpleNamespace(name="A card", total_memory=24 * 2**30)
    torch = SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: cuda, device_count=lambda: 1, get_device_properties=lambda index: card
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    finding = doctor.check_gpu()
    assert finding.mark == mark
    assert finding.found == "A card (24 GiB)" or not cuda


@pytest.mark.parametrize(
    "policy, gpu, mark",
    [
        (None, "note", "note"),
        ("ACTIVE", "note", "note"),
        ("PASSIVE", "note", "ok"),
        ("passive", "note", "ok"),
        (None, "ok", "ok"),
    ],
)
def test_threads_that_spin_while_they_wait(monkeypatch, policy, gpu, mark):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.setattr(doctor, "check_gpu", lambda: doctor.Finding(gpu, "GPU", "a card or none"))
    finding = doctor.check_waiting_threads()
    assert finding.mark == mark
    assert ("export OMP_WAIT_POLICY=PASSIVE" in finding.todo) == (mark == "note")


@pytest.mark.parametrize("version, mark", [("2.8.1", "ok"), ("2.8", "ok"), ("2.7.0", "FAIL"), ("2.80.0", "FAIL")])
def test_nnunet_version(monkeypatch, version, mark):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert doctor.check_nnunet().mark == mark


def test_nnunet_of_unknown_version(monkeypatch):
    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert doctor.check_nnunet().mark == "note"


@pytest.mark.parametrize("located, words", [((None, False), sys.executable), (("left", False), "left")])
def test_nnunet_missing_or_left_over(monkeypatch, tmp_path, located, words):
    folder = tmp_path / located[0] if located[0] else None
    monkeypatch.setattr(registration, "_locate", lambda: (folder, located[1]))
    finding = doctor.check_nnunet()
    assert finding.mark == "FAIL" and words in finding.found
    assert doctor.check_registration().mark == "note"


def test_folders(monkeypatch, tmp_path):
    def check(value, needed=True, made=False):
        monkeypatch.setenv("nnUNet_results", str(value))
        return doctor.check_folder("nnUNet_results", needed, made)

    assert check(tmp_path).mark == "ok"
    assert check("").found == "not set"
    assert check("", needed=False).mark == "note"
    missing = check(tmp_path / "missing")
    assert missing.mark == "FAIL" and "mkdir -p" in missing.todo
    (tmp_path / "file").write_text("")
    assert "is a file" in check(tmp_path / "file").found
    coming = check(tmp_path / "deep" / "missing", made=True)
    assert coming.mark == "note" and "nnU-Net makes it" in coming.found
    assert check(tmp_path / "file" / "missing", made=True).mark == "FAIL"

    # root may write anywhere, so the tests can't take the right away for real
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert check(tmp_path).mark == "FAIL"
    assert check(tmp_path / "missing", made=True).mark == "FAIL"
    assert check(tmp_path, needed=False).mark == "ok"


def test_results_alone_are_made_by_training(monkeypatch, tmp_path):
    for name in ("preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / "missing"))
    marks = {finding.subject: finding.mark for finding in doctor.examine()}
    assert (marks["nnUNet_preprocessed"], marks["nnUNet_results"]) == ("FAIL", "note")


@pytest.mark.parametrize(
    "states, mark, words",
    [
        (("current", "current"), "ok", "registered in nnunetv2"),
        (("current", "other version"), "ok", "another version"),
        (("current", "missing"), "FAIL", "incomplete"),
        (("missing", "missing"), "FAIL", "does not see our trainers"),
        (("foreign", "missing"), "FAIL", "does not see our trainers"),
    ],
)
def test_registration(registered, states, mark, words):
    registered(*states)
    finding = doctor.check_registration()
    assert finding.mark == mark and words in finding.found


def test_external_trainer_folder(registered, monkeypatch, tmp_path):
    registered("missing", "missing")
    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path}{os.pathsep}{registration.EXT_FOLDER}")
    finding = doctor.check_registration()
    assert finding.mark == "ok" and "nnUNet_extTrainer" in finding.found


@pytest.mark.parametrize("place", ["", "training", ".."])
def test_external_trainer_folder_that_breaks_pickling(registered, monkeypatch, place):
    registered("current", "current")
    monkeypatch.setenv("nnUNet_extTrainer", str(registration.EXT_FOLDER.parent / place))
    finding = doctor.check_registration()
    assert finding.mark == "FAIL" and "PicklingError" in finding.found
    assert str(registration.EXT_FOLDER) in finding.todo


def test_sam_weights(monkeypatch, tmp_path):
    from sam3d_nnunet.network import weights

    monkeypatch.setattr(weights, "find_sam_checkpoint", lambda model: None)
    assert doctor.check_sam_weights().mark == "note"
    monkeypatch.setattr(weights, "find_sam_checkpoint", lambda model: tmp_path)
    assert doctor.check_sam_weights() == doctor.Finding("ok", "SAM weights", str(tmp_path))

    def refuse(model):
        raise SAM3DError("SAM3D_CHECKPOINT names x, which is no file")

    monkeypatch.setattr(weights, "find_sam_checkpoint", refuse)
    assert doctor.check_sam_weights().mark == "FAIL"
    monkeypatch.setitem(sys.modules, "sam3d_nnunet.network", None)
    assert doctor.check_sam_weights().mark == "note"
