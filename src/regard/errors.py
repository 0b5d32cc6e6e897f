"""The one error type: every refusal is one line that names the thing, what is wrong and what to do."""


class RegardError(Exception):
    """A mistake that the user can mend.

    The message is one line: the file or argument, what was found, what was expected, what to do next.
    The command line prints it without a traceback and exits with code 2.
    """
