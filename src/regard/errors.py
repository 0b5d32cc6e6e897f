"""The one error type: every refusal is one line that names the thing, what is wrong and what to do."""


class RegardError(Exception):
    """A mistake that the user can mend.

    The message is one line: the file or argument, what was found, what was expected, what to do next. What it quotes
    of files and names cannot break the line. The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str):
        super().__init__(visible(message))


def visible(text: str) -> str:
    """Text of files and names as one line in which nothing moves the cursor: other letters are escaped ("\\n")."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
