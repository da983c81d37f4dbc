"""The way to tests/lab for scripts that pytest does not run; gone when the last of them is."""

from lab.load import *  # noqa: F403
