from typer.testing import CliRunner

from sam3d_nnunet.cli import main as cli


def test_help_says_what_the_paper_used():
    text = " ".join(CliRunner().invoke(cli.app, ["dataset", "convert", "--help"]).output.split())
    for words in ("281 cases", "126 cases", "all 300 cases", "aggregated_MAJ_seg.nii.gz", "the 118 with a tumour"):
        assert words in text
