"""Lets nnU-Net find the classes of sam3d_nnunet; imports that package only when one of them may be meant.

It works from here, through nnUNet_extTrainer, and as the copies that `sam3d register` puts into nnU-Net. No class may
be defined in this folder: after its search nnU-Net forgets every module below it, and a class whose module is
forgotten can't be pickled for a worker process.
"""

# Names of ours, by how they start; nobody else's do.
OURS = (
    "SAM3D",
    "Prompted",
    "SwinUNETRTrainer",
    "UXNet3DTrainer",
    "UNETRPPTrainer",
    "NNFormerTrainer",
    "TransBTSTrainer",
    "MedNeXtTrainer",
    "nnUNetTrainer_smoke",
    "nnUNetTrainer_planned",
    "nnUNetTrainer_demo",
)


def __getattr__(name: str) -> type:
    if name.startswith("_"):  # Python's own questions
        raise AttributeError(name)
    try:
        from sam3d_nnunet.nnunet.names import class_lookup
    except Exception as error:
        # The package is gone or broken, which is nobody's business who asks for another trainer.
        if not name.startswith(OURS):
            raise AttributeError(name) from None
        import sys

        # Neither AttributeError, which nnU-Net takes for "not here", nor an exception that it shows as a traceback.
        raise SystemExit(
            f"Error: {name} belongs to sam3d_nnunet, which {sys.executable} cannot import ({error}): "
            f"install sam3d_nnunet again, or delete {__file__} if you no longer want it."
        ) from error
    return class_lookup(__name__)(name)
