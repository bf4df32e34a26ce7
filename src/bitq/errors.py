"""What bitq says when a user's input is wrong."""


class BitqError(ValueError):
    """A mistake in what the user gave, told in one sentence: what, where, and what would be right.

    The command line prints it without a traceback and exits with code 2.
    """
