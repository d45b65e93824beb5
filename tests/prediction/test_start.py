"""What `sam3d predict` imports before it can predict."""

import json
import subprocess
import sys

SLOW = (
    "torch._dynamo",
    "sympy",
    "seaborn",
    "matplotlib",
    "scipy.stats",
    "sklearn",
    "monai",
    "fastapi",
    "nnunetv2.training.nnUNetTrainer",
    "nnunetv2.inference.predict_from_raw_data",
    "sam3d_nnunet.training",
    "sam3d_nnunet.baselines",
    "sam3d_nnunet.evaluation",
)
"""Imports that take from a tenth of a second to several seconds, and that a prediction does not need."""

CODE = """
import json, sys, torch
slow, file, *arguments = json.loads(sys.argv[1])
of_torch = set(sys.modules)
import sam3d_nnunet.prediction.session
from sam3d_nnunet.cli.main import app
app(["predict", *arguments], standalone_mode=False)
with open(file, "w") as f:
    json.dump([name for name in slow if name in sys.modules and name not in of_torch], f)
"""


def test_a_prediction_imports_nothing_slow(make_model, tmp_path):
    """Sessions share its modules."""
    model, out, found = make_model("one class"), tmp_path / "out", tmp_path / "found.json"
    image = model.images / "case_1_0000.nii.gz"
    arguments = ["-i", image, "-o", out, "-m", model.folder, "--click", "9,8,7", "--windows", "single"]
    given = json.dumps([SLOW, *map(str, (found, *arguments, "--device", "cpu", "--disable_tta"))])
    done = subprocess.run([sys.executable, "-c", CODE, given], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (out / "case_1.nii.gz").is_file()
    assert json.loads(found.read_text()) == []
