"""Pairs of which every method of the benchmark finds the motion: a textured ball, moved."""

import numpy as np
import SimpleITK as sitk
from L2ORegistrationLib.benchmark.run import write_scan
from L2ORegistrationLib.benchmark.scan import Scan
from L2ORegistrationLib.core.geometry import Grid, Volume
from L2ORegistrationLib.datasets.registry import load_dataset
from scipy import ndimage
from scipy.spatial.transform import Rotation

OBLIQUE = Grid(
    (48, 44, 40),
    (1.5, 1.5, 2.0),
    (-30, 20, 10),
    Rotation.from_euler("xyz", (8, -5, 10), degrees=True).as_matrix(),
)
SHIFT = np.array([2.0, -1.5, 3.0])


def bodies(folder, *, apart=(0, 0, 0)):
    """A pair whose moving image is the fixed one, SHIFT further on in a scanner `apart` away."""
    rng = np.random.default_rng(5)
    noise = ndimage.gaussian_filter(rng.standard_normal(OBLIQUE.shape), 3)
    image = Volume((-800 + 900 * noise / noise.std() / 3).astype(np.float32), OBLIQUE)
    centre = OBLIQUE.to_world((np.array(OBLIQUE.size) - 1) / 2)
    inside = np.linalg.norm(OBLIQUE.points() - centre, axis=-1) < 25
    folder.mkdir(parents=True)
    there = Grid(OBLIQUE.size, OBLIQUE.spacing, OBLIQUE.origin + np.array(apart), OBLIQUE.direction)
    moved = image.sample(OBLIQUE.points() - SHIFT)
    points = centre + rng.uniform(-12, 12, (20, 3))
    for name, volume in (
        ("fixed", image),
        ("fixed_mask", Volume(inside, OBLIQUE)),
        ("moving", Volume(moved, there)),
        ("moving_mask", Volume(inside, there)),
    ):
        sitk.WriteImage(volume.to_image(), str(folder / f"{name}.nii.gz"))
    for name, values in (("fixed", points), ("moving", points + SHIFT + apart)):
        rows = "".join(f"{x},{y},{z}\n" for x, y, z in values)
        (folder / f"{name}_landmarks.csv").write_text("x,y,z\n" + rows)
    return folder


def scanned(folder, **options):
    """The pair as a method gets it."""
    (case,) = load_dataset("pairs", bodies(folder / "pair", **options))
    (folder / "scan").mkdir()
    write_scan(case, folder / "scan")
    return Scan.load(folder / "scan")
