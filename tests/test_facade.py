import subprocess
import sys

import pytest

import sam3d_nnunet

HEAVY = ("torch", "numpy", "nnunetv2", "pydantic", "typer")


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, sam3d_nnunet; dir(sam3d_nnunet); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", sam3d_nnunet.__all__)
def test_names_of_the_facade(name):
    assert getattr(sam3d_nnunet, name).__name__ == name
    assert name in dir(sam3d_nnunet)


def test_from_import():
    from sam3d_nnunet import Prompt, SAM3DPredictor, SAM3DSession
    from sam3d_nnunet.prediction.predictor import SAM3DPredictor as predictor
    from sam3d_nnunet.prediction.session import SAM3DSession as session
    from sam3d_nnunet.prompts.prompt import Prompt as prompt

    assert (Prompt, SAM3DPredictor, SAM3DSession) == (prompt, predictor, session)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="'SAM3DPredicter'"):
        sam3d_nnunet.SAM3DPredicter  # noqa: B018
    with pytest.raises(ImportError):
        from sam3d_nnunet import SAM3DPredicter  # noqa: F401
