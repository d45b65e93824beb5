import numpy as np
import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prompts import Prompt
from sam3d_nnunet.prompts.files import read_prompt, write_prompt

GEOMETRY = ImageGeometry(np.eye(4), np.array([[0, 0, 4.0, 1], [2, 0, 0, -5], [0, -3, 0, 9], [0, 0, 0, 1]]))


@pytest.fixture
def read(tmp_path):
    def read(text: str | bytes, **options):
        file = tmp_path / "case_1.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_prompt(file, **options)

    return read


@pytest.mark.parametrize(
    "text",
    [
        "x,y,z,label\n1.5,-2,3e1,2\n4,5,6,0\n",
        "x,y,z,label\r\n1.5,-2,3e1,2\r\n4,5,6,0",
        "\n x , Y,Z ,Label\n\n1.5 , -2,30,label=2\n,,,\n4,5,6,background\n",
        "label,z,note,y,x\n2,30,anything,-2,1.5\n0,6,,5,4\n",
        '"x","y","z","label"\n"1.5","-2","30","2"\n"4","5","6","0"\n',
        "x;y;z;label\n1,5;-2;30;2\n4;5,0;6;0\n",
        "x;y;z;label\n1.5;-2;30;Posterior\n4;5;6;neg\n",
    ],
)
def test_tables(read, text):
    for content in (text.encode(), text.encode("utf-8-sig")):
        prompt = read(content, class_names={"posterior": 2})
        assert prompt.points.tolist() == [[1.5, -2, 30], [4, 5, 6]]
        assert prompt.labels.tolist() == [2, 0]
        assert prompt.image == "case_1"


def test_layout_is_as_documented(tmp_path):
    write_prompt(Prompt([[1.5, -2, 3]], [2], "case, the first"), tmp_path / "clicks.csv")
    assert (tmp_path / "clicks.csv").read_text() == 'image,x,y,z,label\n"case, the first",1.5,-2.0,3.0,2\n'


def test_without_labels_it_is_class_1(read):
    assert read("x,y,z\n1,2,3\n4,5,6\n").labels.tolist() == [1, 1]
    assert read("x,y,z,label\n1,2,3,\n4,5,6,2\n").labels.tolist() == [1, 2]


def test_no_rows(read):
    prompt = read("x,y,z,label,image\n", image_name="case_7")
    assert prompt.points.shape == (0, 3) and prompt.image == "case_7"


def test_voxels(read):
    prompt = read("i,j,k,label\n1,2,3,2\n0.5,0,0,0\n", image_geometry=GEOMETRY)
    assert prompt.points.tolist() == [[13, -3, 3], [1, -4, 9]]
    assert prompt.labels.tolist() == [2, 0]
    with pytest.raises(SAM3DError, match=r"case_1\.csv.*i, j, k.*image"):
        read("i,j,k,label\n1,2,3,2\n")


def test_voxels_of_an_image_that_was_turned(read):
    with pytest.raises(SAM3DError, match="image file"):
        read("i,j,k\n1,2,3\n", image_geometry=ImageGeometry(np.eye(4)))


def test_rows_of_several_images(read):
    text = "image,x,y,z\n b ,1,2,3\na,4,5,6\nb,7,8,9\n"
    prompt = read(text, image_name="b")
    assert prompt.points.tolist() == [[1, 2, 3], [7, 8, 9]] and prompt.image == "b"
    assert read(text, image_name="a").points.tolist() == [[4, 5, 6]]
    with pytest.raises(SAM3DError, match=r"no click on c.*'b', 'a'"):
        read(text, image_name="c")
    with pytest.raises(SAM3DError, match="2 images.*'b', 'a'"):
        read(text)
    assert read("image,x,y,z\nb,1,2,3\n").image == "b"
    # a mistake in the row of another image is none here
    assert read(text + "c,one,2,3\n", image_name="a").points.tolist() == [[4, 5, 6]]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "empty.*x,y,z,label"),
        ("\n\n", "empty"),
        ("1,2,3,1\n4,5,6,1\n", "columns.*'1'.*x, y, z"),
        ("x,y,label\n1,2,3\n", "columns"),
        ("x,y,k\n1,2,3\n", "columns"),
        ("x,y,z,i,j,k\n1,2,3,1,2,3\n", "either"),
        ("x,y,z,X\n1,2,3,1\n", "column x 2 times"),
        ("x,y,z,label,Label\n1,2,3,1,2\n", "column label 2 times"),
        ("x,y,z\n1,2,3\n1,2\n", "line 3 has 2 cells.* 3"),
        ("x,y,z\n1,5,2,5,3,5\n", "line 2 has 6 cells"),
        ("x,y,z\n1,2,3\n1,two,3\n", "line 3: y is 'two'"),
        ("x,y,z\n1,,3\n", "line 2: y is ''"),
        ("x,y,z\n1,nan,3\n", "line 2: y is 'nan'.*finite"),
        ("x,y,z\n1,2,-inf\n", "line 2: z"),
        ("x;y;z\n1.234,5;2;3\n", "line 2: x"),
        ("x,y,z,label\n1,2,3,tumour\n", "line 2 has the label 'tumour'.*label=K"),
        ("x,y,z,label\n1,2,3,-1\n", "line 2 has the label '-1'"),
        ("x,y,z,label\n1,2,3,1.5\n", "line 2 has the label '1.5'"),
        ("x,y,z,label\n1,2,3,99999999999999999999\n", "line 2 has the label"),
        ("image,x,y,z\na,1,2,3\n,1,2,3\n", "line 3.*image"),
        ('x,y,z\n1,2,"3\n', "line 2"),
        ("x,y,z\n1,2," + "3" * 200_000, "line 2"),
    ],
)
def test_mistakes_are_named(read, text, problem):
    with pytest.raises(SAM3DError, match=problem) as refused:
        read(text)
    assert "case_1.csv" in str(refused.value)
    assert len(str(refused.value)) < 600
