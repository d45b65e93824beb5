import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.nnunet.folders import dataset_name, dataset_number


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


def test_any_text_may_follow_the_id():
    names = ("Dataset004_Hippocampus", "Dataset220 Liver (late)", "Dataset220-Liver_v2", "Dataset220")
    assert [dataset_number(name) for name in names] == [4, 220, 220, 220]
    with pytest.raises(SAM3DError, match="'Dataset4_Hippocampus' has no id of three digits"):
        dataset_number("Dataset4_Hippocampus")
