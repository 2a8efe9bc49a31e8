"""From flags to trained models."""

import modeling  # noqa: F401 - first of all, because it imports the framework quietly
