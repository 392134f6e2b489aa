"""The training loop: unrolled iterations on prepared pairs, resumable from its last checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.errors import InputError
from ..engine.catalogue import OLD_NAMES
from ..engine.field.levels import MindLevel
from ..engine.models import load_model
from ..engine.optimise.falta2022 import Falta2022Optimiser
from ..engine.optimise.lapirn import LapIRN
from ..engine.optimise.networks import Falta2022Network, L2ONetwork
from ..engine.optimise.voxelmorph import VoxelMorph
from . import l2o, lapirn, voxelmorph
from .config import TrainingConfig, changed, renamed
from .loss import inside, keypoint_loss
from .predictions import predicted
from .prepared import PreparedPair, save
from .starts import falta2022_start
from .workers import Workers

ASTRAY = 20  # steps in a row without a finite gradient, after which nothing will be learned


@dataclass(frozen=True)
class Rollout:
    """What one rollout of an optimiser step did.

    before, after: mean keypoint errors in mm, NaN for a crop without keypoints; rate: the step's
    learning rate; seconds: of training so far, interrupted runs included.
    """

    step: int
    level: int
    before: float
    after: float
    loss: float
    rate: float
    seconds: float


def train(
    pairs: Sequence[Path],
    checkpoint: str | Path,
    config: TrainingConfig,
    device: str | torch.device = "cpu",
    workers: Workers | None = None,
) -> Iterator[Rollout]:
    """Train the configured network; yields every rollout. Continues where `checkpoint` stopped.

    pairs: files of `PreparedPair`s. A step's checkpoint is written when its rollouts have been
    taken from the iterator, so what was noted of them is never behind it. Several workers call
    this alike: n of them with k rollouts each do the same as one with n k. A step whose gradient is
    not finite is left out. Raises InputError after ASTRAY of them in a row.
    """
    workers = workers or Workers()
    checkpoint = Path(checkpoint)
    lessons = l2o.Lessons(pairs, config.level_shares, device)
    torch.manual_seed(config.seed)
    network = beginner(config).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    step, earlier = 0, 0.0
    if checkpoint.exists():
        state = load_checkpoint(checkpoint, device)
        restore(network, state)
        optimiser.load_state_dict(state["optimiser"])
        step, earlier = state["step"], state.get("seconds", 0.0)
        own = range(workers.rank * config.accumulate, (workers.rank + 1) * config.accumulate)
        lessons.restore(state.get("lessons", {}), own)
    started, astray = time.monotonic(), 0
    while step < config.steps:
        rate = config.learning_rate * _schedule(step, config)
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = []
        for part in range(config.accumulate):
            # Each rollout has its own seed: an interrupted run goes on exactly the same.
            number = workers.rank * config.accumulate + part
            rng = np.random.default_rng([config.seed, step, number])
            if config.close:  # float32: what is learned is a tenth of a millimetre
                loss, *row = lessons.learn(network, rng, number)
            else:
                loss, *row = _rollout(network, pairs, config, step, rng, device)
            (loss / config.accumulate).backward()
            rows.append((*row, float(loss.detach())))
        workers.average_gradients(network.parameters())
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if torch.isfinite(norm):
            optimiser.step()
            astray = 0 if norm > 0 else astray  # crops without keypoints say nothing
        elif (astray := astray + 1) == ASTRAY:
            raise InputError(
                f"The training went astray: the last {ASTRAY} steps, up to step {step + 1}, had no "
                "finite gradient. Begin again in another folder, with a lower learning_rate."
            )
        optimiser.zero_grad(set_to_none=True)
        step += 1
        seconds = earlier + time.monotonic() - started
        for level, before, after, loss in workers.gathered(rows):
            yield Rollout(step, int(level), before, after, loss, rate, seconds)
        if step % config.checkpoint_every and step != config.steps:
            continue
        under_way = workers.joined(lessons.state())
        if workers.first:
            save_checkpoint(checkpoint, network, optimiser, step, config, seconds, under_way)


def new_network(config: TrainingConfig) -> torch.nn.Module:
    """An untrained network of the configured variant."""
    return {
        "falta2022": Falta2022Network,
        "l2o": lambda: L2ONetwork(config.width),
        "voxelmorph++": VoxelMorph,
        "lapirn": lambda: LapIRN(config.diffeomorphic),
    }[config.variant]()


def beginner(config: TrainingConfig) -> torch.nn.Module:
    """The network as a training begins with it. Raises InputError for weights of another one."""
    if not config.begin_with:
        return new_network(config)
    card, network = load_model(config.begin_with)
    variant = OLD_NAMES.get(card.variant, card.variant)
    if variant != config.variant or card.width not in (None, config.width):
        width = f", width {card.width}" if card.width else ""
        raise InputError(
            f"The weights to begin with are those of {variant}{width}, and not of "
            f"{config.variant}, width {config.width}: choose others, or other settings."
        )
    if bool(getattr(network, "diffeomorphic", False)) != config.diffeomorphic:
        raise InputError(
            "The weights to begin with and the training setting 'diffeomorphic' do not agree: "
            f"set it to {str(not config.diffeomorphic).lower()}, or choose others."
        )
    return network.train()


def save_checkpoint(
    path: Path,
    network,
    optimiser,
    step: int,
    config: TrainingConfig,
    seconds: float,
    lessons: dict,
) -> None:
    """Write all that a run needs to go on; an interrupted write keeps the old file.

    lessons: `Lessons.state` of all processes.
    """
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "config": asdict(config),
        "seconds": seconds,
        "lessons": lessons,
    }
    save(state, path)


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict:
    """What `save_checkpoint` wrote. Raises InputError where the file is damaged."""
    try:
        state = torch.load(path, weights_only=True, map_location=device)
        return state | {"config": state["config"], "step": state["step"]}
    except Exception as error:
        raise InputError(f"{path} is damaged: delete it to start again.") from error


def restore(network: torch.nn.Module, state: dict) -> None:
    """Give a network, from `beginner`, what `load_checkpoint` found.

    Raises InputError where that is of a network made otherwise, as after other weights have come
    under the name that the training has begun with.
    """
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        raise InputError(
            "The checkpoint is of a network made otherwise than this training begins with now: go "
            "on with the version and the weights that it has begun with, or in another folder."
        ) from error


def check_checkpoint(path: Path, config: TrainingConfig) -> int:
    """The steps that a checkpoint has behind it; 0 without one.

    Raises InputError where it is damaged or other settings have made it.
    """
    if not path.exists():
        return 0
    state = load_checkpoint(path)
    made_with = renamed(state["config"])
    other = changed(config, made_with)
    if other:
        raise InputError(
            f"{path} was made with another {other} ({made_with.get(other, 'unknown')}): "
            "repeat that setting to continue, or choose another folder."
        )
    return state["step"]


class _InBfloat16:
    """A network that computes in bfloat16 on CUDA and returns float32.

    Only the network does: sampling and Gauss-Newton steps need the digits that bfloat16 lacks. The
    CPU always computes in float32, where training in bfloat16 overflows.
    """

    def __init__(self, network: torch.nn.Module):
        self.network, self.hidden = network, network.hidden

    def __call__(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast("cuda", torch.bfloat16):
            outputs = self.network(inputs)
        return tuple(output.float() for output in outputs)


def _schedule(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then halves, or a cosine down to 2 %."""
    warm = min(1.0, (step + 1) / config.warmup)
    if config.halve_every:
        return warm * 0.5 ** (step // config.halve_every)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))


@dataclass
class _Task:
    """What a rollout starts from and is measured by, on the device.

    field: (3, d, h, w), mm, before the first iteration; points, targets:
    keypoints (N, 3) and their true displacements, mm, as in `PreparedPair`.
    """

    level: MindLevel
    field: torch.Tensor
    points: torch.Tensor
    targets: torch.Tensor

    def error(self, field: torch.Tensor) -> float:
        """The mean keypoint error of a field in mm; NaN without keypoints."""
        if not len(self.points):
            return math.nan
        with torch.no_grad():
            loss = keypoint_loss([field], self.level, self.points, self.targets)
        return float(loss) * self.level.spacing


# Networks that predict the whole motion at once: how one of their rollouts goes.
_AT_ONCE = {"voxelmorph++": voxelmorph.rollout, "lapirn": lapirn.rollout}


def _rollout(network, pairs, config: TrainingConfig, step: int, rng, device):
    """Unroll the network once: (loss, level, mean error in mm before, after)."""
    mixed = config.mixed_precision and torch.device(device).type == "cuda"
    if config.variant in _AT_ONCE:
        pair = PreparedPair.load(pairs[rng.integers(len(pairs))])
        with torch.autocast("cuda", torch.bfloat16, mixed):
            return _AT_ONCE[config.variant](network, pair, config, step, rng, device)
    if mixed:
        network = _InBfloat16(network)
    task = _drawn_task(pairs, config, rng, device)
    fewest, most = config.iterations
    iterations = fewest if step < config.short_steps else int(rng.integers(fewest, most + 1))
    steps = Falta2022Optimiser(network).iterate(task.level, task.field, iterations)
    fields = [field for field, _ in steps]
    loss = keypoint_loss(fields, task.level, task.points, task.targets, task.field)
    return loss, 0, task.error(task.field), task.error(fields[-1])


def _drawn_task(pairs, config: TrainingConfig, rng, device) -> _Task:
    """A pair, a crop of it, a start and keypoints, all by chance."""
    path = pairs[rng.integers(len(pairs))]
    pair = PreparedPair.load(path)
    found = predicted(path, config.start_model) if config.start_model else pair.search
    level, field = falta2022_start(pair, found, config, rng)
    keep = inside(level, pair.points).nonzero().squeeze(1)
    keep = keep[torch.from_numpy(rng.permutation(len(keep))[: config.keypoints])]
    tensors = field, pair.points[keep], pair.targets[keep]
    return _Task(level.to(device), *(tensor.to(device) for tensor in tensors))
