"""Keeps TensorFlow's C++ notes off the terminal, and loses none when it fails."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from rich.console import Console

from tfcompress.errors import TfcompressError


@contextlib.contextmanager
def quiet_stderr() -> Iterator[Console]:
    """Sends file descriptor 2 to a temporary file while the body runs.

    TensorFlow and LiteRT write there from C++, past Python's logging. If the body
    fails unexpectedly, what was held back is printed after all.

    Yields:
        A console that still writes to the real standard error output.
    """
    sys.stderr.flush()
    real = os.dup(2)
    stream = os.fdopen(os.dup(real), "w")
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield Console(file=stream)
        except (TfcompressError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            sys.stderr.flush()
            held.seek(0)
            os.write(real, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            stream.close()
