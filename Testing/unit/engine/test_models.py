"""Weights come with a card, are checked before use, and say what is wrong with them."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.engine import models  # noqa: E402
from L2ORegistrationLib.engine.catalogue import METHODS  # noqa: E402
from L2ORegistrationLib.engine.models import (  # noqa: E402
    available_models,
    export_model,
    load_model,
)
from L2ORegistrationLib.engine.optimise.networks import Falta2022Network, L2ONetwork  # noqa: E402

CARD = {
    "version": "3",
    "licence": "Apache-2.0",
    "iterations": 3,
    "trained_iterations": (2, 4),
    "facts": {"data": "phantoms"},
}


@pytest.fixture
def exported(tmp_path):
    torch.manual_seed(0)
    network = L2ONetwork(8)
    path = tmp_path / "tiny.pt"
    export_model(network, path, **CARD)
    return network, path


def changed(path, **entries):
    """Change entries of the card beside these weights; ... takes one out."""
    card = path.with_suffix(".json")
    content = {**json.loads(card.read_text("utf-8")), **entries}
    card.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def test_what_is_exported_loads_again(exported):
    network, path = exported
    card, loaded = load_model(path)
    assert (card.name, card.variant, card.width, card.version) == ("tiny", "l2o", 8, "3")
    assert card.iterations == 3 and card.trained_iterations == (2, 4)
    assert card.parameters == sum(p.numel() for p in network.parameters())
    assert card.facts == {"data": "phantoms"}
    assert not loaded.training
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_several_networks_of_a_level_load_again(tmp_path):
    network = L2ONetwork(8, (1, 1, 3))
    export_model(network, tmp_path / "several.pt", **CARD)
    card, loaded = load_model(tmp_path / "several.pt")
    assert card.ensemble == (1, 1, 3) == loaded.ensemble
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_weights_from_before_there_were_several_networks_load(exported):
    network, path = exported
    changed(path, ensemble=...)
    assert load_model(path)[1].ensemble == (1, 1, 1)


def test_the_same_network_has_the_same_checksum(exported, tmp_path):
    network, path = exported
    assert export_model(network, tmp_path / "again.pt", **CARD).sha256 == load_model(path)[0].sha256


def test_the_papers_network_likewise(tmp_path):
    path = tmp_path / "falta.pt"
    export_model(Falta2022Network(), path, **{**CARD, "iterations": 8})
    card, network = load_model(path)
    assert (
        card.variant == "falta2022" and card.width is None and isinstance(network, Falta2022Network)
    )
    assert card.parameters == 254_493


def test_all_packaged_weights_are_whole():
    cards = available_models()
    assert METHODS["l2o"].weights in [card.name for card in cards]
    for card in cards:
        loaded, network = load_model(card.name)
        assert loaded == card
        assert card.parameters == sum(p.numel() for p in network.parameters())
        assert card.licence and card.version and card.iterations >= 1


def test_a_flipped_bit_is_noticed(exported):
    _, path = exported
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged.*install"):
        load_model(path)


def test_weights_cut_short_are_noticed(exported):
    _, path = exported
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        load_model(path)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"variant": "falta2022"}, "don't fit the 'falta2022' network: give"),
        ({"width": 16}, "don't fit the 'l2o' network: give"),
        ({"width": None}, "don't fit the 'l2o' network: give"),
        ({"width": "wide"}, "don't fit the 'l2o' network: give"),
        ({"variant": "transformer"}, "unknown network: transformer"),
        ({"compares": "colours"}, "damaged: nothing compares 'colours'"),
        ({"colour": "blue"}, "damaged"),  # of a later version
        ({"licence": ...}, "damaged"),  # of an earlier one
    ],
    ids=str,
)
def test_a_card_that_describes_something_else(exported, entry, told):
    _, path = exported
    changed(path, **entry)
    with pytest.raises(InputError, match=told):
        load_model(path)


def test_code_in_a_weights_file_is_not_run(exported, tmp_path):
    """A pickle of something else than tensors, with the right checksum in its card."""
    _, path = exported
    trap = tmp_path / "sprung"
    torch.save({"head.bias": Trap(trap)}, path)
    changed(path, sha256=models.checksum(path))
    with pytest.raises(InputError, match="don't fit"):
        load_model(path)
    assert not trap.exists()


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_missing_card(exported):
    _, path = exported
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="model card tiny.json is missing"):
        load_model(path)


@pytest.mark.parametrize("content", ["", "[1, 2]", "{}", '{"iterations": []}', "\xff\xfe"], ids=str)
def test_a_damaged_card(exported, content):
    _, path = exported
    path.with_suffix(".json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="model card tiny.json is damaged"):
        load_model(path)


@pytest.mark.parametrize("name", ["nothing", "folder/nothing.pt", ""])
def test_unknown_names_list_what_there_is(name):
    with pytest.raises(InputError, match="packaged are .*l2o.*give a .pt file"):
        load_model(name)


@pytest.mark.parametrize(("old", "name"), [("trust", "l2o"), ("paper", "falta2022")])
def test_packaged_weights_and_cards_under_their_earlier_names(exported, old, name):
    assert load_model(old)[0] == load_model(name)[0]
    assert load_model(name)[0].name == load_model(name)[0].variant == name
    if name == "l2o":  # a card that an earlier version wrote
        _, path = exported
        changed(path, variant=old, iterations=[2, 3])
        card, network = load_model(path)
        assert isinstance(network, L2ONetwork) and card.iterations == 3


def test_models_are_listed_by_name(exported, tmp_path):
    _, path = exported
    for suffix in (".pt", ".json"):
        shutil.copy(path.with_suffix(suffix), tmp_path / f"another{suffix}")
    assert len(available_models(tmp_path)) == 2
    assert available_models(tmp_path / "empty") == []
