"""Turns what a user got wrong into one message without a stack trace."""


class UserError(Exception):
    """A mistake that the user can mend: what was received, expected, the fix.

    `main` prints the message and exits with status 2; from Python it is an
    ordinary exception.

    Attributes:
        message: what to tell the user; gin adds to `str(error)` which of its
            functions the error came through.
    """

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message


class SourceUnavailable(UserError):
    """A data source cannot be had here: no data on disk and no network.

    A task's `stand_in`, where it names one, takes the source's place.
    """
