"""What bitq says when a user's input is wrong."""


class BitqError(ValueError):
    """A mistake in what the user gave, told in one sentence: what, where, and what would be right.

    The command line prints it without a traceback and exits with code 2.
    """


class Infeasible(BitqError):  # noqa: N818 - it is read as the answer to a question
    """Nothing keeps what was asked for: no tiling fits a memory, or no plan keeps the budgets.

    Says what the least is that could be kept. Raised only where this is certain: a solver that fails, or any other
    mistake, is never told so.
    """
