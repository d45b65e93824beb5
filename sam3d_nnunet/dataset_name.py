"""Names of data sets, by nnU-Net's ids."""

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from sam3d_nnunet.errors import SAM3DError


def dataset_number(name: str) -> int:
    """The id of a data set with a name such as Dataset004_Hippocampus."""
    return int(name.removeprefix("Dataset").partition("_")[0])


def dataset_name(dataset: str) -> str:
    """Name of a data set.

    Args:
        dataset: its id, or its name, for which nothing is looked up.

    Raises:
        SAM3DError: nnU-Net's folders hold no or several data sets with this id, or it is no id.
    """
    try:
        return str(maybe_convert_to_dataset_name(dataset))
    except ValueError as e:
        raise SAM3DError(f"The data set {dataset!r} is neither an id such as 4 nor a name Dataset004_Some.") from e
    except RuntimeError as e:
        reason = str(e).partition(". ")[0]  # nnU-Net goes on about its variables, line by line
        raise SAM3DError(
            f"The data set {dataset} can't be found in nnUNet_raw, nnUNet_preprocessed and nnUNet_results: {reason}. "
            "Look at these variables and the folders that they name."
        ) from e
