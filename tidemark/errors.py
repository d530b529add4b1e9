"""Every error Tidemark raises on purpose.

    TidemarkError
    ├── UsageError          a setting or argument is wrong: one sentence naming it, exit status 2
    ├── UnavailableError    a service does not answer or asks to wait: retrying the same call can help
    ├── MisconfiguredError  a service answers, but a table, grant, schema or name is not as it must be: waits for a person
    ├── RefusedError        a service will never accept this data: retrying the same call cannot help
    └── LocalError          a stand-in or a local tool cannot be installed, started or reached

The names of other libraries' errors stay inside `store`, `warehouse`, `bus` and `local`, which translate them once.
Data that cannot be accepted is not an error: it becomes a dead letter (`tidemark.wire.reasons`).
"""


class TidemarkError(Exception):
    """A foreseen failure. Its text is one sentence that says what to do."""


class UsageError(TidemarkError):
    """A setting or an argument is missing, unknown or out of its bounds."""


class UnavailableError(TidemarkError):
    """A service is away or overloaded; the same call may succeed later.

    Attributes:
        retry_after_s: How long the service asked to be left alone.
        cap: After so many failures in a row a person has to look; None: however often.
        too_much: It may be the size of what was asked; a part of it may be done.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, cap: int | None = None, too_much: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.cap = cap
        self.too_much = too_much


class MisconfiguredError(TidemarkError):
    """A service is there, but not as it must be; a person has to mend it."""


class RefusedError(TidemarkError):
    """A service refuses this data for good. `code` is the service's own: an SQLSTATE or a status name."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class LocalError(TidemarkError):
    """Something on this machine is missing or in the way."""
