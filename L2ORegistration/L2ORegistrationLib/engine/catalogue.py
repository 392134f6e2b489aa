"""The catalogue: every method, what its stages do and compare, every start. Imports no torch.

The engine, the command line, the benchmark, its figure, Slicer's lists and the settings read it, so
that a new method is a file in optimise/ and an entry here; `register_method` adds one from outside.
Places are written "module:name", a leading dot meaning this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from ..core.errors import InputError


@dataclass(frozen=True)
class Stage:
    """Iterations of one optimiser on one level.

    name: as in `Step.stage`; level: as in `Step.level`, 0 is the coarsest; compares: a key of
    DESCRIPTORS; optimiser: the place of a class whose `iterate(level, field, iterations)` yields
    (field in mm, dissimilarity), made with `settings`, and, where learned, with the network before
    them. A learned stage without iterations takes those of the weights. closing: goes on after a
    learned one, unless told not to, with iterations of its own. unsearched: iterations where no
    search came before.
    """

    name: str
    level: int
    compares: str
    optimiser: str
    iterations: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    learned: bool = False
    closing: bool = False
    unsearched: int = 0

    @property
    def all_learned(self) -> bool:
        """Whether a network makes every iteration, and so has learned to make only so many."""
        return self.learned and "trusting" not in self.settings

    @property
    def unweighed(self) -> Stage:
        """The same without a network that weighs the last iterations: all of them plain ones."""
        if "trusting" not in self.settings:
            return self
        settings = {k: v for k, v in self.settings.items() if k not in ("number", "trusting")}
        plain = {"name": "gauss-newton", "optimiser": _GAUSS_NEWTON, "learned": False}
        return replace(self, settings=settings, **plain)


@dataclass(frozen=True)
class Method:
    """A way to register: its title in lists and tables, its colour in figures and its stages.

    finest: the key of DESCRIPTORS on whose lattice the field is reported and the steps are
    compared. weights: the packaged weights that a learned method takes unless others are given;
    variant: what their model card calls the network, and network: the place of its class. start:
    a key of STARTS, where it begins unless told otherwise.
    """

    title: str
    colour: str
    stages: tuple[Stage, ...]
    finest: str = "mind, fine"
    weights: str = ""
    variant: str = ""
    network: str = ""
    start: str = "search"

    def plan(
        self,
        iterations: int | Sequence[int] | None = None,
        learned: int = 0,
        refine: bool = True,
        searched: bool = True,
        compares: str = "",
    ) -> list[Stage]:
        """The stages in order, with their iterations.

        iterations: on each level instead of the usual, except of closing stages, or one for each
        level; learned: those that the weights are made for; refine: with the closing stages;
        searched: a search, or a given transform, has come near; compares: what learned stages
        compare instead, where the weights were trained on something else.
        Raises InputError for iterations of other levels than there are.
        """
        levels = len({stage.level for stage in self.stages if not stage.closing})
        if isinstance(iterations, Sequence) and len(iterations) != levels:
            raise InputError(
                f"{self.title} has {levels} level{'s' if levels > 1 else ''}: give one number of "
                f"iterations for all of them or one for each, not {len(iterations)}."
            )
        stages = []
        for stage in self.stages:
            usual = stage.iterations if searched else stage.unsearched or stage.iterations
            if stage.closing:
                count = stage.iterations if refine else 0
            else:
                asked = iterations[stage.level] if isinstance(iterations, Sequence) else iterations
                count = asked or usual or learned
            if count:
                seen = (stage.learned and compares) or stage.compares
                stages.append(replace(stage, iterations=count, compares=seen))
        return stages


# What the stages compare: the place of a function (pyramid, field in mm) -> level.
DESCRIPTORS = {
    "mind, coarse": ".field.descriptors:coarse_mind",
    "mind, fine": ".field.descriptors:fine_mind",
    "mind within masks": ".field.descriptors:masked_mind",
    "mind within masks, coarse": ".field.descriptors:coarse_masked_mind",
    "lung images": ".field.descriptors:lung_images",
    "lung images, coarse": ".field.descriptors:coarse_lung_images",
    "contrast": ".field.descriptors:contrast",
    "contrast, closer": ".field.descriptors:closer_contrast",
}

CLOSER = "contrast, closer"  # where the images' voxels show more than the working grid's
CALIBRATED_ON = "mind, fine"  # what the confidence is calibrated on, whatever a method compares
_GAUSS_NEWTON = ".optimise.gauss_newton:GaussNewtonOptimiser"
CONTRAST_NOISE = 0.1  # median squared difference of local contrast between clean scans of one day


def _descent(name: str, level: int) -> Stage:
    """Gauss-Newton on one level: fields of 12 mm on MIND of 6 mm, 6 on 3, 6 on local contrast.

    The last iterations on contrast look at a closer grid, where the images show more on it.
    """
    compares, iterations, settings = (
        ("mind, coarse", 3, {"stiffness": 2.5e-4}),
        ("mind, fine", 4, {"stiffness": 2e-3}),
        (
            CLOSER,
            9,
            {
                "stiffness": 6e-3,
                "changing": 0.5,
                "noise": CONTRAST_NOISE,
                "momentum": 0.3,
                "closely": 3,
            },
        ),
    )[level]
    return Stage(
        name,
        level,
        compares,
        _GAUSS_NEWTON,
        iterations,
        settings,
        unsearched=8 if level == 0 else 0,  # without a search there is further to go
    )


def _trusting(level: int) -> Stage:
    """A level whose last iterations, of the coarser ones usually all, a network weighs.

    One iteration less than without it on each level: it gets as far.
    """
    plain = _descent("l2o", level)
    settings = {**plain.settings, "number": level, "trusting": (3, 4, 3)[level]}
    return replace(
        plain,
        optimiser=".optimise.l2o:L2OOptimiser",
        iterations=plain.iterations - 1,
        settings=settings,
        learned=True,
    )


def _instance(level: int, closing: bool = False) -> Stage:
    """Adam on one level, as the authors of VoxelMorph++ and the paper use it."""
    adam = ".optimise.voxelmorph:InstanceOptimiser"
    return Stage("adam", level, "mind within masks", adam, 50, closing=closing)


def _predicted(name: str, optimiser: str) -> tuple[Stage, ...]:
    """A network that predicts the whole motion from the lungs' images, then Adam."""
    return (
        Stage(name, 0, "lung images", optimiser, learned=True),
        _instance(1, closing=True),
    )


METHODS: dict[str, Method] = {
    "gauss-newton": Method(
        "Gauss-Newton", "#1b9e77", tuple(_descent("gauss-newton", level) for level in (0, 1, 2))
    ),
    "l2o": Method(
        "L2O",
        "#1b6ca8",
        tuple(_trusting(level) for level in (0, 1, 2)),
        weights="l2o",
        variant="l2o",
        network=".optimise.networks:L2ONetwork",
    ),
    "falta2022": Method(
        "Falta 2022",
        "#7570b3",
        (
            Stage(
                "falta2022",
                0,
                "mind within masks",
                ".optimise.falta2022:Falta2022Optimiser",
                learned=True,
            ),
        ),
        finest="mind within masks",
        weights="falta2022",
        variant="falta2022",
        network=".optimise.networks:Falta2022Network",
    ),
    "voxelmorph++": Method(
        "VoxelMorph++",
        "#e7298a",
        _predicted("voxelmorph++", ".optimise.voxelmorph:VoxelMorphOptimiser"),
        finest="mind within masks",
        weights="voxelmorph++",
        variant="voxelmorph++",
        network=".optimise.voxelmorph:VoxelMorph",
        start="affine",
    ),
    "lapirn": Method(
        "LapIRN",
        "#a6761d",
        _predicted("lapirn", ".optimise.lapirn:LapIRNOptimiser"),
        finest="mind within masks",
        weights="lapirn",
        variant="lapirn",
        network=".optimise.lapirn:LapIRN",
        start="affine",
    ),
    "instance": Method(
        "Adam, one level", "#e6ab02", (_instance(0),), finest="mind within masks", start="affine"
    ),
    "adam": Method(
        "Adam",
        "#d95f02",
        (
            Stage("adam", 0, "mind, coarse", ".optimise.adam:AdamOptimiser", 50),
            Stage("adam", 1, "mind, fine", ".optimise.adam:AdamOptimiser", 50),
        ),
    ),
}
DEFAULT = "l2o"

# What networks and packaged weights were called before; users' files and scripts still say so.
OLD_NAMES = {"pyramid": "l2o", "trust": "l2o", "paper": "falta2022"}

# What happens before the first iteration, with its title in lists. One that is a method as well
# is what its network predicts from the affine.
STARTS = {
    "search": "Lungs, then a search",
    "affine": "Lungs only (affine)",
    "box": "Bounding boxes of the lungs",
    "voxelmorph++": "VoxelMorph++",
    "none": "None: as they lie",
    "landmarks": "Landmarks",
}


def register_method(name: str, method: Method) -> None:
    """Add a method; before the command line or Slicer's module is imported, which list them."""
    if name in METHODS:
        raise ValueError(f"There is a method '{name}' already.")
    METHODS[name] = method


def checked_method(name: str) -> str:
    """The name, if it is one of METHODS. Raises InputError otherwise."""
    if name not in METHODS:
        raise InputError(f"Unknown method '{name}': use one of {', '.join(METHODS)}.")
    return name


def of_variant(variant: str) -> str:
    """The name of the method whose network a model card calls so. Raises InputError for none."""
    variant = OLD_NAMES.get(variant, variant)
    for name, method in METHODS.items():
        if method.variant and method.variant == variant:
            return name
    raise InputError(f"The weights are those of an unknown network: {variant}.")


def load(place: str) -> Any:
    """What stands at a place: a class or a function; its module is imported now."""
    module, name = place.split(":")
    return getattr(import_module(module, __package__), name)
