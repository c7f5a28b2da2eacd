"""The one error that a user's input may cause."""


class InputError(ValueError):
    """Bad input, told in one line: what was expected, what came, what to do.

    The command line prints the line and leaves with exit code 2; nothing has been half-written when it is raised.
    """
