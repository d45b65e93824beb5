"""Do clicks steer the network? Move the click from a lesion to its look-alike, and exchange clicks between cases.

Example: sam3d demo --folder demo && python benchmarks/click_steering.py demo
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from tqdm import tqdm

from sam3d_nnunet.demo.phantom import ENDING, PhantomCase, image_geometry, read_manifest, world_grid
from sam3d_nnunet.demo.results import OURS, DemoFolder
from sam3d_nnunet.prediction.cases import ImageCase
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.prompts.prompt import Prompt


class ClickedModel:
    """The trained network of the demo, prompted with one click at a time."""

    def __init__(self, demo: DemoFolder) -> None:
        self.predictor = SAM3DPredictor()
        self.predictor.initialize_from_trained_model_folder(demo.model(OURS), (0,))
        self.cases = infer_dataset_class(str(demo.preprocessed))(str(demo.preprocessed))

    def mask(self, prompt: Prompt) -> np.ndarray:
        """(D, H, W) bool on the grid of the original image."""
        data, _, _, properties = self.cases.load_case(prompt.image)
        case = ImageCase.from_preprocessed(data[:], properties, self.predictor.model)
        return self.predictor.predict_read(case, prompt).segmentation() == 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Do clicks steer the demo's network? Measured on its validation cases.",
        epilog="Example: python benchmarks/click_steering.py demo",
    )
    parser.add_argument("folder", type=Path, help="folder of a finished sam3d demo")
    demo = DemoFolder(parser.parse_args().folder.absolute())
    if not (demo.model(OURS) / "fold_0" / "checkpoint_final.pth").is_file():
        parser.error(f"{demo.root} holds no finished demo; make one with sam3d demo --folder {demo.root}")
    model = ClickedModel(demo)
    contents = read_manifest(demo.dataset)
    clicks = {
        file.stem: read_prompt(file) for file in sorted(demo.predictions["ours, one click"].glob("phantom_*.json"))
    }
    _move_clicks(demo, model, {name: click for name, click in clicks.items() if contents[name].lookalike}, contents)
    _exchange_clicks(demo, model, clicks)


def _move_clicks(
    demo: DemoFolder, model: ClickedModel, clicks: dict[str, Prompt], contents: dict[str, PhantomCase]
) -> None:
    """Click on the lesion, then on the same place of its look-alike."""
    rows = []
    for name, click in tqdm(clicks.items(), desc="Moving clicks"):
        world = world_grid(_label_image(demo, name))
        lesion, lookalike = contents[name].lesion, contents[name].lookalike
        step = np.array(lookalike.centre) - np.array(lesion.centre)
        masks = model.mask(click), model.mask(replace(click, points=click.points + step))
        solids = lesion.mask(world), lookalike.mask(world)
        rows.append([f(mask, solid) for mask in masks for solid in solids for f in (dice, share)])
    right_dice, right_share, _, wrong_share, _, left_share, moved_dice, moved_share = np.mean(rows, axis=0)
    print(f"\nMeans over {len(rows)} validation cases with a look-alike")
    print("click on          Dice of the clicked one   share of it marked   share of the other marked")
    print(f"the lesion        {right_dice:23.3f}   {right_share:18.1%}   {wrong_share:25.1%}")
    print(f"the look-alike    {moved_dice:23.3f}   {moved_share:18.1%}   {left_share:25.1%}")


def _exchange_clicks(demo: DemoFolder, model: ClickedModel, clicks: dict[str, Prompt]) -> None:
    """The right click, compared with the click of the next case."""
    names = list(clicks)
    rows = []
    for name, other in tqdm(list(zip(names, [*names[1:], names[0]])), desc="Exchanging clicks"):
        image = _label_image(demo, name)
        truth = sitk.GetArrayFromImage(image) == 1
        foreign = _transfer(clicks[other], _label_image(demo, other), image, name)
        rows.append([dice(model.mask(prompt), truth) for prompt in (clicks[name], foreign)])
    right, exchanged = np.mean(rows, axis=0)
    print(f"\nMeans over all {len(rows)} validation cases")
    print(f"Dice with the right clicks         {right:.3f}")
    print(f"Dice with clicks of another case   {exchanged:.3f}")


def _transfer(click: Prompt, source: sitk.Image, target: sitk.Image, name: str) -> Prompt:
    """A click at the same relative position in another image."""
    scale = np.array(target.GetSize()[::-1]) / np.array(source.GetSize()[::-1])
    voxels = (image_geometry(source).to_voxels(click.points) + 0.5) * scale - 0.5
    return Prompt(image_geometry(target).to_world(voxels), click.labels, name)


def _label_image(demo: DemoFolder, name: str) -> sitk.Image:
    return sitk.ReadImage(str(demo.dataset / "labelsTr" / f"{name}{ENDING}"))


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return 2 * np.sum(mask & truth) / (np.sum(mask) + np.sum(truth))


def share(mask: np.ndarray, truth: np.ndarray) -> float:
    """Share of `truth` that lies in the mask."""
    return np.sum(mask & truth) / np.sum(truth)


if __name__ == "__main__":
    main()
