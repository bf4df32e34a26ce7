"""What bitq says when a user's input is wrong."""


class BitqError(ValueError):
    """A mistake in what the user gave, told in one sentence: what, where, and what would be right.

    The command line prints it without a traceback and exits with code 2.
    """


class Infeasible(BitqError):  # noqa: N818 - a finding, not a failure
    """Nothing can keep what was asked for: no tiling fits a memory, or no plan keeps the budgets.

    It is proved. A solver that fails, or stops early, is never told like this.
    """
