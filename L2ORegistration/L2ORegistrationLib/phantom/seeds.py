"""Which seeds are for learning and which for measuring: no phantom is drawn for both."""

PATIENTS = 100_003  # seeds of one training; its own are the lower half of them


def learned(training: int, number: int) -> int:
    """The seed of a pair or patient, numbered from 0, that the training of this seed learns from.

    Half of PATIENTS are there, more than anybody draws.
    """
    return training * PATIENTS + number % (PATIENTS // 2)


def measured(seed: int) -> int:
    """The seed itself if nothing learns from its phantom, else that of one in its place."""
    return seed if seed % PATIENTS >= PATIENTS // 2 else seed + PATIENTS // 2 + 1
