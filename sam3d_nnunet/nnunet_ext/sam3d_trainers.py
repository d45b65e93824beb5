"""Lets nnU-Net find the classes of sam3d_nnunet.

nnU-Net reads this file in one of two ways: in this folder, if nnUNet_extTrainer names it, or as the copies that
`sam3d register` writes into nnunetv2. Do not define classes in this folder: nnU-Net drops its modules from sys.modules
after the search, and a class of such a module cannot be pickled for a worker process.
"""

# How names of our classes start; no name of nnU-Net's does. sam3d_nnunet.nnunet.names holds the complete names.
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
    if name.startswith("_"):  # asked by Python itself
        raise AttributeError(name)
    try:
        from sam3d_nnunet.nnunet.names import class_lookup
    except Exception as error:
        # The package is gone or broken. The trainers of others must still be found.
        if not name.startswith(OURS):
            raise AttributeError(name) from None
        import sys

        # nnU-Net takes an AttributeError for "not here", and shows other exceptions as a traceback.
        raise SystemExit(
            f"Error: {name} belongs to sam3d_nnunet, which {sys.executable} cannot import ({error}). "
            f"Install sam3d_nnunet again, or delete {__file__} if you no longer want it."
        ) from error
    return class_lookup(__name__)(name)
