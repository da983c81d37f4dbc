"""The way to tests/lab for scripts that pytest does not run; gone when the last of them is."""

from lab.compare import *  # noqa: F403
