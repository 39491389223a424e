"""What is collected where."""

import importlib.util

# Real TFX has an environment of its own: `make test-tfx`, which names the folder, and
# so fails where TFX is missing. (`tfx` itself is also the name of the tests' folder.)
collect_ignore = [] if importlib.util.find_spec("ml_metadata") else ["tfx"]
