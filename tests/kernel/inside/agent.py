"""The way to tests/lab for scripts that pytest does not run; gone when the last of them is."""

from lab.agent import *  # noqa: F403
