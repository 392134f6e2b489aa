"""`models` and `devices`: what there is to choose from."""

from __future__ import annotations

from dataclasses import asdict

from rich import box
from rich.table import Table

from ..engine.catalogue import DEFAULT, METHODS
from .console import output as out
from .console import print_json, say
from .options import Json


def models(as_json: Json = False) -> None:
    """List the packaged weights and their limits; --json: all that is known of them."""
    from ..engine.models import available_models

    cards = available_models()
    if as_json:
        default = METHODS[DEFAULT].weights
        print_json({"default": default, "models": [asdict(card) for card in cards]})
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("name", "version", "parameters", "iterations learned", "licence"):
        table.add_column(name)
    for card in cards:
        table.add_row(
            card.name,
            card.version,
            f"{card.parameters:,}",
            str(card.iterations),
            card.licence,
        )
    out.print(table)
    out.print(f"The default method is {DEFAULT}; a method takes the weights of its name.")
    for card in cards:
        if limits := card.facts.get("limits"):
            say(f"{card.name}: {limits}.")
    say("How each was trained: --json, or the model cards beside the weights.")


def devices(as_json: Json = False) -> None:
    """List what `--device` can be here."""
    from ..engine.devices import available_devices
    from ..engine.selfcheck import problem

    found = [
        (name, text if (reason := problem(name)) is None else f"unusable: {reason}", free)
        for name, text, free in available_devices()
    ]
    if as_json:
        keys = ("name", "description", "free_mb")
        print_json({"devices": [dict(zip(keys, device, strict=True)) for device in found]})
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("name")
    table.add_column("description")
    table.add_column("free memory", justify="right")
    for name, description, free in found:
        table.add_row(name, description, "unknown" if free is None else f"{free / 1024:.1f} GB")
    out.print(table)
