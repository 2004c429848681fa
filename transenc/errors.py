"""The one exception that a person causes and a person can mend."""


class InputError(ValueError):
    """Something given to the program is wrong. The message is one line: what, where, and what to do.

    The command line prints the message alone and ends with status 1; every other exception is a bug and keeps its
    traceback.
    """
