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

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Beside the library in Slicer and in a clone of the repository, inside it where pip installed it.
_BESIDE = Path(__file__).parents[2] / "Resources" / "Training"
FOLDER = _BESIDE if _BESIDE.is_dir() else Path(__file__).parents[1] / "experiments"
VARIANTS = ("pyramid", "paper")
_MAY_BE_ZERO = ("seed", "halve_every", "rates", "further", "ahead", "short")
_MAY_CHANGE = ("steps", "checkpoint_every")  # between the parts of an interrupted training


@dataclass(frozen=True)
class TrainingConfig:
    """One experiment.

    variant: "pyramid" or "paper" (which has one level and no width); steps: of the optimiser, each
    of `accumulate` unrolled crops; warmup: steps until the learning rate is reached; halve_every:
    steps after which it halves, again and again (0: a cosine down to 2 %); width: channels of the
    network; crop: field voxels along each axis; keypoints: at most so many in a crop; iterations:
    fewest and most that are unrolled; short: steps at the beginning that unroll only the fewest,
    which is cheap and enough to learn what a step is; ahead: in half of the rollouts, at most so
    many iterations come before those and teach nothing, so that the network learns to stay where it
    has arrived; rates: shares of the steps on each level (whole, crop, fine crop); further: share
    of the whole lungs that get more motion than their pair has;
    mixed_precision: the network computes in bfloat16 on CUDA, elsewhere never.
    """

    variant: str = "pyramid"
    steps: int = 1200
    learning_rate: float = 1e-3
    warmup: int = 50
    halve_every: int = 0
    width: int = 24
    seed: int = 0
    crop: int = 32
    keypoints: int = 3000
    iterations: tuple[int, int] = (5, 8)
    short: int = 0
    ahead: int = 8
    rates: tuple[float, float, float] = (1.0, 0.0, 0.0)
    further: float = 0.7
    accumulate: int = 2
    checkpoint_every: int = 50
    mixed_precision: bool = True

    @property
    def longest(self) -> int:
        """The most iterations that a rollout has."""
        return self.iterations[1] + self.ahead

    @property
    def levels(self) -> int:
        """On how many levels, from the coarsest on, the network learns to work."""
        return 2 if self.variant == "pyramid" and self.rates[0] < 1 else 1


def experiments() -> list[str]:
    """The names of the packaged configurations."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_config(source: str | Path | None, **overrides: Any) -> TrainingConfig:
    """The configuration of a TOML file or of a packaged name; None: the defaults.

    overrides: fields that replace those of the file. Raises InputError for files that cannot be
    read, unknown fields and values that make no sense.
    """
    return _checked({**_content(source), **overrides})


def changed(config: TrainingConfig, made_with: Mapping[str, Any]) -> str | None:
    """The first field in which a checkpoint was made with other settings; None where it goes on.

    made_with: the checkpoint's settings. One from a version without some field cannot go on.
    """
    return next(
        (k for k, v in asdict(config).items() if k not in _MAY_CHANGE and made_with.get(k) != v),
        None,
    )


def _content(source: str | Path | None) -> dict[str, Any]:
    if source is None:
        return {}
    if str(source) in experiments():
        path = FOLDER / f"{source}.toml"
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
        raise InputError(f"There is no variant '{config.variant}': use {' or '.join(VARIANTS)}.")
    if config.iterations[0] > config.iterations[1]:
        raise InputError("The training setting 'iterations' needs the fewest, then the most.")
    if config.variant == "pyramid" and config.iterations[0] < 2:
        raise InputError(
            "The training setting 'iterations' needs at least 2: the first only looks."
        )
    if config.further > 1:
        raise InputError("The training setting 'further' is a share, from 0 to 1.")
    if not math.isclose(sum(config.rates), 1, abs_tol=1e-6):
        raise InputError("The training setting 'rates' must have three shares that sum to 1.")
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
