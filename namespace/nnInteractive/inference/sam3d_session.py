"""Lets napari-nninteractive find `SAM3DSession`.

That plug-in runs the session class that inference_session_class.json in a model folder names, and looks for it in all
modules of the namespace package `nnInteractive.inference`, of which this file is a part. `sam3d export-napari` writes
the JSON file. Neither `nnInteractive/` nor `inference/` may get an __init__.py here: it would hide nnInteractive's own
modules.
"""


def __getattr__(name: str) -> type:
    if name != "SAM3DSession":  # the search asks every module for every class
        raise AttributeError(name)
    from sam3d_nnunet import SAM3DSession

    return SAM3DSession
