"""The packaged weights: listed, checked and loaded, never downloaded."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..core.errors import InputError
from ..core.paths import atomic, checksum
from . import packaged
from .catalogue import DESCRIPTORS, METHODS, load, of_variant


@dataclass(frozen=True)
class ModelCard:
    """What a set of weights is; kept as JSON beside them.

    variant: as in `catalogue.Method`; iterations: of the learned stage; trained_iterations: fewest
    and most that training unrolled; width, ensemble: as in `networks.L2ONetwork`, None for networks
    without; compares: what learned stages see instead of what the catalogue says, a key of
    `catalogue.DESCRIPTORS`, or empty; facts: data, seed, commit, hours, device, results, limits.
    """

    name: str
    variant: str
    version: str
    licence: str
    sha256: str
    parameters: int
    iterations: int
    trained_iterations: tuple[int, int]
    width: int | None = None
    ensemble: tuple[int, ...] | None = None
    compares: str = ""
    facts: dict = field(default_factory=dict)


def available_models(folder: Path | None = None) -> list[ModelCard]:
    """The cards of all weights in a folder, by name; of the packaged ones where left out."""
    return [_card(path) for path in sorted((folder or packaged.FOLDER).glob("*.json"))]


def load_model(name: str | Path = "l2o") -> tuple[ModelCard, nn.Module]:
    """The card and the network (on the CPU, evaluation mode) of packaged weights or of a .pt file.

    InputError: no such weights, damaged weights (checksum), or weights of another network.
    """
    path = packaged.weights_file(name)
    if not path.exists():
        names = ", ".join(card.name for card in available_models()) or "none"
        raise InputError(
            f"There are no weights '{name}': packaged are {names}; or give a .pt file."
        )
    card = _card(path.with_suffix(".json"))
    if checksum(path) != card.sha256:
        raise InputError(
            f"The weights {path.name} are damaged, or their card is of others (another checksum): "
            "install the extension again or, where they are your own, repeat their train command."
        )
    try:
        network = _network(card)
        network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"The weights {path.name} don't fit the '{card.variant}' network: "
            "give weights that this version's train command exported."
        ) from error
    return card, network.eval()


def export_model(network: nn.Module, path: str | Path, **card) -> ModelCard:
    """Write weights (.pt) and their card (.json, same name); the rest of the card as keywords."""
    path = Path(path)
    state = {k: v.detach().cpu() for k, v in network.state_dict().items()}
    content = io.BytesIO()  # torch writes a file's own name into it, which would change the sum
    torch.save(state, content)
    with atomic(path) as temporary:
        temporary.write_bytes(content.getvalue())
    card = ModelCard(
        name=path.stem,
        sha256=checksum(path),
        parameters=sum(p.numel() for p in network.parameters()),
        width=getattr(network, "width", None),
        ensemble=getattr(network, "ensemble", None),
        variant=_variant(network),
        **card,
    )
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(asdict(card), indent=2) + "\n", encoding="utf-8")
    return card


def _network(card: ModelCard) -> nn.Module:
    made = {"width": card.width, "ensemble": card.ensemble}
    made = {name: value for name, value in made.items() if value is not None}
    return load(METHODS[of_variant(card.variant)].network)(**made)


def _variant(network: nn.Module) -> str:
    """What a model card calls a network of this class."""
    learned = [method for method in METHODS.values() if method.network]
    return next(m.variant for m in learned if isinstance(network, load(m.network)))


def _card(path: Path) -> ModelCard:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content["iterations"], list):  # of each level, once
            content["iterations"] = content["iterations"][-1]
        content["trained_iterations"] = tuple(content["trained_iterations"])
        if content.get("ensemble"):
            content["ensemble"] = tuple(content["ensemble"])
        card = ModelCard(**content)
        if card.compares and card.compares not in DESCRIPTORS:
            raise ValueError(f"nothing compares '{card.compares}'")
        return card
    except FileNotFoundError as error:
        raise InputError(f"The model card {path.name} is missing beside the weights.") from error
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"The model card {path.name} is damaged: {error}.") from error
