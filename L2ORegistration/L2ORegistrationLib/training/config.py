"""The settings of a training: one flat TOML file for each experiment, some of them packaged."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.paths import existing
from ..engine.catalogue import OLD_NAMES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Beside the library in Slicer and in a clone of the repository, inside it where pip installed it.
_BESIDE = Path(__file__).parents[2] / "Resources" / "Training"
FOLDER = _BESIDE if _BESIDE.is_dir() else Path(__file__).parents[1] / "experiments"
VARIANTS = ("l2o", "falta2022", "voxelmorph++", "lapirn")
# What settings were called before; files and checkpoints of users still say so.
_OLD_KEYS = {"short": "short_steps", "lapirn_shares": "level_shares"}
_OLD_EXPERIMENTS = {**OLD_NAMES, "paper-cpu": "falta2022-cpu"}
_MAY_BE_ZERO = (
    "seed",
    "halve_every",
    "level_shares",
    "short_steps",
    "disturbance",
)
_COARSE = {"voxelmorph++": "lung images, coarse", "falta2022": "mind within masks, coarse"}
AT_ONCE = ("voxelmorph++", "lapirn")  # predict the whole motion in one go, without iterations
# The variants that a setting does something to, where these are not all.
_ONLY_FOR = {
    "width": ("l2o",),
    "level_shares": ("l2o", "lapirn"),
    "crop": ("falta2022",),
    "iterations": ("falta2022", *AT_ONCE),
    "short_steps": ("falta2022",),
    "start_model": ("falta2022",),
    "keypoints": ("falta2022", "voxelmorph++"),
    "coarse": tuple(_COARSE),
    "disturbance": AT_ONCE,
    "diffeomorphic": ("lapirn",),
}
_MAY_CHANGE = ("steps", "checkpoint_every")  # between the parts of an interrupted training


@dataclass(frozen=True)
class TrainingConfig:
    """One experiment.

    variant: what is trained, one of VARIANTS; steps: of the optimiser, each of `accumulate`
    rollouts; warmup: steps until the learning rate is reached; halve_every: steps after which it
    halves, again and again (0: a cosine down to 2 %); begin_with: the weights that the network
    begins with, packaged or a .pt file, of the same variant (empty: random ones); mixed_precision:
    the network computes in bfloat16 on CUDA, elsewhere, and for "l2o", never; level_shares: of the
    steps of "lapirn", one after the other, or of the close-ups that "l2o" begins, by chance, those
    of each level, the coarsest first.

    "l2o" learns from close-ups of phantoms, one iteration of one level in a step. width: channels
    of the network.

    "falta2022" learns from crops of one level. crop: field voxels along each axis; keypoints: at
    most so many in a crop; iterations: fewest and most that are unrolled; short_steps: steps at the
    beginning that unroll only the fewest, which is cheap and enough to learn what a step is;
    start_model: the weights of VoxelMorph++, packaged or a .pt file, from whose predictions it
    learns to go on (empty: from the search's results).

    "voxelmorph++" and "lapirn" predict the motion of whole lungs at once. disturbance: standard
    deviation of the twelve numbers of an affine that one image of a pair is seen through, its shift
    in units of 144 mm; coarse: VoxelMorph++, and falta2022, see voxels of 6 mm instead of 3, which
    takes an eighth of the time; diffeomorphic: LapIRN predicts velocities.
    """

    variant: str = "l2o"
    steps: int = 12_000
    learning_rate: float = 1.5e-3
    warmup: int = 20
    halve_every: int = 0
    width: int = 16
    seed: int = 0
    crop: int = 32
    keypoints: int = 3000
    iterations: tuple[int, int] = (8, 8)
    short_steps: int = 0
    accumulate: int = 1
    checkpoint_every: int = 50
    coarse: bool = False
    disturbance: float = 0.035
    diffeomorphic: bool = False
    level_shares: tuple[float, float, float] = (0.16, 0.31, 0.53)
    start_model: str = ""
    mixed_precision: bool = True
    begin_with: str = ""

    @property
    def close(self) -> bool:
        """Whether it learns from close-ups of phantoms, not from prepared pairs."""
        return self.variant == "l2o"

    @property
    def compares(self) -> str:
        """What the network sees, as a model card says it; empty where it is the usual."""
        return _COARSE[self.variant] if self.coarse else ""


def experiments() -> list[str]:
    """The names of the packaged configurations."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_config(source: str | Path | None, **overrides: Any) -> TrainingConfig:
    """The configuration of a TOML file or of a packaged name; None: the defaults.

    overrides: fields that replace those of the file. Raises InputError for files that cannot be
    read, unknown fields and values that make no sense.
    """
    return _checked(renamed({**_content(source), **overrides}))


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under today's names, from a file or checkpoint of any version."""
    settings = {_OLD_KEYS.get(key, key): value for key, value in settings.items()}
    if settings.get("variant") in OLD_NAMES:
        settings["variant"] = OLD_NAMES[settings["variant"]]
    return settings


def changed(config: TrainingConfig, made_with: Mapping[str, Any]) -> str | None:
    """The first field in which a checkpoint was made with other settings; None where it goes on.

    made_with: the checkpoint's settings, `renamed`. One from a version without some field that
    does something cannot go on.
    """
    for key, value in asdict(config).items():
        counts = key not in _MAY_CHANGE and config.variant in _ONLY_FOR.get(key, VARIANTS)
        if counts and made_with.get(key) != value:
            return key
    return None


def _content(source: str | Path | None) -> dict[str, Any]:
    if source is None:
        return {}
    name = _OLD_EXPERIMENTS.get(str(source), str(source))
    if name in experiments():
        path = FOLDER / f"{name}.toml"
    elif Path(source).suffix:
        path = existing(source)
    else:
        raise InputError(
            f"There is no configuration '{source}': packaged are {', '.join(experiments())}; "
            "or give a .toml file."
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as TOML ({error}): check its syntax.") from error


def _checked(settings: dict[str, Any]) -> TrainingConfig:
    defaults = asdict(TrainingConfig())
    for key, value in settings.items():
        if key not in defaults:
            known = ", ".join(field.name for field in fields(TrainingConfig))
            raise InputError(f"There is no training setting '{key}': use {known}.")
        settings[key] = _like(key, value, defaults[key])
    config = TrainingConfig(**settings)
    if config.variant not in VARIANTS:
        raise InputError(f"There is no variant '{config.variant}': use {', '.join(VARIANTS)}.")
    if config.iterations[0] > config.iterations[1]:
        raise InputError("The training setting 'iterations' needs the fewest, then the most.")
    if config.close and config.width % 8:
        raise InputError("The training setting 'width' must be a multiple of 8.")
    if not math.isclose(sum(config.level_shares), 1, abs_tol=1e-6):
        raise InputError("The training setting 'level_shares' must have three that sum to 1.")
    for key, variants in _ONLY_FOR.items():
        if config.variant not in variants and settings.get(key, defaults[key]) != defaults[key]:
            raise InputError(
                f"The training setting '{key}' does nothing to {config.variant}, it is for "
                f"{' and '.join(variants)}: leave it out."
            )
    if config.variant in AT_ONCE and config.iterations not in ((1, 1), defaults["iterations"]):
        raise InputError(
            f"{config.variant} predicts the motion at once: leave the training setting "
            "'iterations' out."
        )
    return config


def _like(key: str, value: Any, default: Any) -> Any:
    """The value as the same kind as its default."""
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(default):
            raise InputError(f"The training setting '{key}' needs {len(default)} numbers.")
        return tuple(_like(key, v, d) for v, d in zip(value, default, strict=True))
    kinds = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise InputError(f"The training setting '{key}' must be like {default}, got {value!r}.")
    value = type(default)(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        least = "zero or more" if key in _MAY_BE_ZERO else "more than zero"
        if not math.isfinite(value) or value < 0 or (value == 0 and key not in _MAY_BE_ZERO):
            raise InputError(f"The training setting '{key}' must be {least}, got {value}.")
    return value
