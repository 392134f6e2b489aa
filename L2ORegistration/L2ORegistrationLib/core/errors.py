"""The one error for a user's mistake: a sentence that says what is wrong and what to do."""


class InputError(ValueError):
    """Something given by the user cannot be used; the message is shown to them as it is."""
