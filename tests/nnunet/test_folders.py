import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.nnunet.folders import dataset_name


def test_by_id_or_name(nnunet_folders):
    (nnunet_folders.results / "Dataset007_Any").mkdir()
    assert dataset_name("7") == "Dataset007_Any"
    assert dataset_name("Dataset008_NotThere") == "Dataset008_NotThere"


@pytest.mark.parametrize(("dataset", "said"), [("8", "data set 8 .* ID 8"), ("x", "'x'"), ("7", "More than one")])
def test_no_such_data_set_in_one_line(nnunet_folders, dataset, said):
    for folder in (nnunet_folders.raw / "Dataset007_Any", nnunet_folders.results / "Dataset007_Other"):
        folder.mkdir()
    with pytest.raises(SAM3DError, match=said) as error:
        dataset_name(dataset)
    assert "\n" not in str(error.value)
