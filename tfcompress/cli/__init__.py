"""The command line. Importing it imports neither TensorFlow nor pydantic."""

from tfcompress.cli.main import main

__all__ = ["main"]
