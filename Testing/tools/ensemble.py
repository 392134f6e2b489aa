"""Put networks that were trained apart together: weights whose last level is the mean of theirs.

    python Testing/tools/ensemble.py OUT COARSE LAST LAST ...

Each a packaged name or a .pt file of the method l2o. The levels but the last are those of COARSE,
what the last levels of all LAST say is averaged. Writes OUT, a .pt file, with its card.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "L2ORegistration"))

from L2ORegistrationLib.engine.models import export_model, load_model  # noqa: E402
from L2ORegistrationLib.engine.optimise.networks import Ensemble, L2ONetwork  # noqa: E402


def main(out: str, coarse: str, *last: str) -> None:
    card, first = load_model(coarse)
    cards, networks = zip(*map(load_model, last), strict=True)
    network = L2ONetwork(card.width, (*first.ensemble[:-1], len(last)))
    together = Ensemble(one.levels[-1] for one in networks)
    network.levels = torch.nn.ModuleList((*first.levels[:-1], together))
    made = ", ".join(f"{one.name} {one.version} ({one.sha256[:12]})" for one in cards)
    export_model(
        network,
        Path(out),
        version=card.version,
        licence=card.licence,
        iterations=card.iterations,
        trained_iterations=card.trained_iterations,
        facts={**card.facts, "made_with": f"the coarser levels of {coarse}; the last: {made}"},
    )
    load_model(out)  # fails where networks of different widths were given


if __name__ == "__main__":
    main(*sys.argv[1:])
