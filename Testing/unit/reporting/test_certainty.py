"""The sentence on how sure it is says its numbers, and nothing where nothing is known."""

import pytest
from L2ORegistrationLib.reporting.certainty import sentence, told


def provenance(unsure):
    numbers = {"median_mm": 0.84, "p95_mm": 2.26, "unsure": unsure}
    return {f"confidence_{name}": str(number) for name, number in numbers.items()}


def test_it_says_what_most_of_the_lungs_keep_to():
    said = sentence(provenance(0.0))
    assert "0.8 mm" in said and "2.3 mm" in said and "5 mm" not in said
    assert told(provenance(0.0)) == {"median": 0.84, "p95": 2.26, "unsure": 0.0}


@pytest.mark.parametrize("share, there", [(0.004, False), (0.04, True), (0.3, False)])
def test_it_names_a_share_that_may_be_far_off_unless_the_verdict_does(share, there):
    said = f"{share:.0%} of the lungs may be off by more than 5 mm" in sentence(provenance(share))
    assert said is there


def test_nothing_is_said_where_nothing_is_known():
    assert sentence({}) == "" and told({"confidence_median_mm": "nan"}) == {}
