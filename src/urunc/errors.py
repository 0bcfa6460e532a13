# SPDX-License-Identifier: Apache-2.0
"""The errors that a user can meet, and nothing else.

A message is lower case without a full stop, `operation 'object': reason`; the hint says what to do
about it. Code raises or logs, never both; only `__main__` prints. No error class needs an import.
"""


class Error(Exception):
    """A failure that is reported as one message (and perhaps a hint), never as a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    @property
    def kind(self) -> str:
        """What went wrong, in a word or two for logs and metrics: `host`, `not_found`."""
        name = type(self).__name__.removesuffix("Error")
        return "".join(f"_{letter}" if letter.isupper() else letter for letter in name)[1:].lower()


class UsageError(Error):
    """The command line is wrong."""


class ConfigError(Error):
    """The administrator's configuration is wrong."""


class SpecError(Error):
    """The bundle's config.json is not what the OCI runtime specification asks for."""


class ImageError(Error):
    """The unikernel's annotations or files are wrong."""


class RoomError(ImageError):
    """The guest does not fit into its memory limit."""


class HostError(Error):
    """This machine lacks something that the container needs."""


class HookError(Error):
    """A hook of the container failed."""


class InitError(Error):
    """The container's init could not set itself up; reported by it through its pipe."""


class MonitorError(Error):
    """A monitor that runs does not do what it is asked to."""


class SnapshotError(Error):
    """A saved guest is not what it should be, or does not fit here; or a guest cannot be saved."""


class RefusedError(Error):
    """A unikernel cannot do this; the exit code is that of an `exec` that fails."""

    exit_code = 255


class StateError(Error):
    """The container is not in a state that allows the operation."""


class NotFoundError(StateError):
    """There is no such container."""


class ExistsError(StateError):
    """There is such a container already."""


class WrongStatusError(StateError):
    """The container's status does not allow the operation."""


def reason(error: OSError) -> str:
    """The kernel's words for an OSError, in lower case, without the number and the path."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
