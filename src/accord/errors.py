"""Every error and warning that accord raises on purpose.

An error says what was called, what was seen, the cause and the remedy.
"""


class AccordError(Exception):
    """Base of all errors raised by accord."""


class ShapeError(AccordError, ValueError):
    """An argument has the wrong shape, length or number of tasks."""


class NonFiniteError(AccordError, ValueError):
    """An argument holds NaN or infinity where a number is needed."""


class OptionError(AccordError, ValueError):
    """An option has a value outside its range, or is not an option of the method."""


class UnknownNameError(AccordError, LookupError):
    """A method, experiment, preset or option is not known; the message suggests the nearest."""


class EngineError(AccordError, RuntimeError):
    """A Jacobian engine cannot differentiate the graph it was given."""


class DataError(AccordError, RuntimeError):
    """A data file is missing, truncated or altered."""


class StoreError(AccordError, RuntimeError):
    """A run store cannot be read or written: another version, a lock, a full or read-only disk."""


class LockedError(StoreError):
    """Another process is writing this run."""


class WorkerError(AccordError, RuntimeError):
    """A process that steps an environment died, or raised; its traceback is in the message."""


class DependencyError(AccordError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""


class NumericalWarning(UserWarning):
    """A result is usable but not what was asked for: a stationary point, a skipped non-finite step."""


class OptionWarning(UserWarning):
    """An option was given that has no effect here."""
