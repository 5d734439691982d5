"""The error of a nuScenes folder that cannot be read as asked."""

from __future__ import annotations


class DataError(ValueError):
    """One clear line: the file or the key, its value and the remedy.

    A loader process hands an exception over with its whole traceback as the message; only the line that the user needs
    is kept of it.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught DataError in DataLoader worker process"):
            message = message.strip().rpartition("DataError: ")[2]
        super().__init__(message)
