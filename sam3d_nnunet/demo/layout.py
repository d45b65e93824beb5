"""Where things are in the folder of a demo."""

from dataclasses import dataclass
from pathlib import Path

BASELINE, OURS = "nnUNetTrainer_demo", "SAM3DAdapterTrainer_demo"


@dataclass(frozen=True)
class DemoFolder:
    """Paths of a demo; nothing need exist yet.

    Attributes:
        root: absolute path of the folder.
    """

    root: Path
    number = 1
    name = "Dataset001_Phantom"

    @property
    def environment(self) -> dict[str, str]:
        """nnU-Net's three folders."""
        return {v: str(self.root / v) for v in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}

    @property
    def mark(self) -> Path:
        """The file that says that the folder is a demo's."""
        return self.root / "demo.json"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.json"

    @property
    def table(self) -> Path:
        return self.root / "table.md"

    @property
    def picture(self) -> Path:
        return self.root / "demo.png"

    @property
    def dataset(self) -> Path:
        """The raw data set."""
        return self.root / "nnUNet_raw" / self.name

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / self.name / "SAM3DPlans_3d_fullres"

    def model(self, trainer: str) -> Path:
        """The folder of a trained model."""
        return self.root / "nnUNet_results" / self.name / f"{trainer}__SAM3DPlans__3d_fullres"

    @property
    def predictions(self) -> dict[str, Path]:
        """Folder of predicted validation cases by method."""
        return {
            "nnU-Net, automatic": self.model(BASELINE) / "fold_0" / "validation",
            "ours, automatic": self.model(OURS) / "fold_0" / "validation",
            "ours, one click": self.model(OURS) / "fold_0" / "validation_1click",
        }
