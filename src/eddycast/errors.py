"""The one error that a user's input may cause, and how the errors of libraries that read a user's file become it."""

from __future__ import annotations

import gc
import os
import struct
import sys
import tokenize
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input, told in one line: what was expected, what came, what to do.

    The command line prints the line and leaves with exit code 2; nothing has been half-written when it is raised.
    """


DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # and with it RecursionError
    TypeError,
    SyntaxError,  # of NumPy, which reads the header of an array as an expression
    ValueError,  # and with it UnicodeError
    struct.error,
    tokenize.TokenError,  # the same header, cut short
    zipfile.BadZipFile,
    zlib.error,
)
"""What libraries raise when the content of a file is not what they expect: each has its own choice of these."""


@contextmanager
def reading(
    what: object, advice: str = "it is damaged, fetch or write it again", *, kind: str = "file"
) -> Iterator[None]:
    """Inside stand calls of a library that reads a file, and nothing else: whatever they raise tells of the file.

    An error in our own code would be taken for one of the file: keep it outside, so that it stays visible. Warnings of
    the library are dropped.

    Args:
        what: The file, and the place in it, to begin the message with.
        advice: What to do, to end it with.
        kind: What was expected.

    Raises: InputError, in one line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except DAMAGE as error:
        told = reason(error)
        _dispose(error)
        raise InputError(f"{what}: not a readable {kind} ({told}); {advice}.") from error


def _dispose(error: BaseException) -> None:
    """Let go of half-opened files now: closing one that is damaged fails as well, and Python would say so on stderr."""
    before, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            link: BaseException | None = error
            while link is not None:
                traceback.clear_frames(link.__traceback__)
                link = link.__context__
            gc.collect(1)  # what was opened just now is young; a search of everything takes a tenth of a second
    finally:
        sys.unraisablehook = before


def reason(error: BaseException) -> str:
    """The first line of an error, not too long; its kind where it says nothing."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()  # not what a library adds: HDF5 adds the time of day and addresses
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) <= 160 else lines[0][:157] + "..."
