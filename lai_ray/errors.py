"""The errors a user is meant to read: what was there, and what to do about it."""


class LaiError(Exception):
    """Base of every error whose message alone is enough; the command line prints it without a traceback."""


class ConfigError(LaiError):
    """The job file, an override, a name or a path in it is wrong. Raised before anything is started or paid for."""


class DataError(LaiError):
    """A row, a file or a model is not what it should be."""


class InterruptedRunError(LaiError):
    """The user stopped the run (Ctrl-C). The same command goes on."""


class StageError(LaiError):
    """A stage could not finish. What it had paid for is kept; the same command goes on from there."""
