# SPDX-License-Identifier: Apache-2.0
"""The entry: reads the verb, imports that one module, turns errors into one message and an exit
code.

Leaves through `_exit`: there is nothing to tear down, and tearing down an interpreter takes a
millisecond.
"""

from __future__ import annotations

import posix
import sys

from urunc import OCI_VERSION, __version__, logs, timing
from urunc.cli import FOREIGN, VERBS
from urunc.cli.options import GLOBAL, Arguments, parse
from urunc.errors import Error, HostError, UsageError, reason
from urunc.state import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

VERSION = f"urunc version {__version__}\ncommit: {__version__}\nspec: {OCI_VERSION}\n"
BRIEF = ("create", "start", "state", "kill", "delete")
"""Verbs that end before garbage is worth collecting."""


def main() -> NoReturn:
    """Run one verb and exit."""
    _open_closed()
    try:
        code = run(sys.argv[1:])
    except Error as error:
        logs.error(str(error), error.kind)
        code = error.exit_code
    except BrokenPipeError:
        code = 1  # the reader of our output has gone; it wants no message
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if logs.debug:
            raise
        logs.error(
            f"internal error: {type(error).__name__}: {error} "
            "(--debug shows where; please report it)",
            "internal",
        )
        code = 1
    try:
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        code = code or 1
    except OSError as error:
        logs.error(f"write to standard output: {reason(error)}")
        code = code or 1
    posix._exit(code)


def _open_closed() -> None:
    """Open /dev/null for each standard stream that the caller has closed, as Go's programs do;
    otherwise a file of ours would become the container's stream."""
    for fd in range(3):
        try:
            posix.fstat(fd)
        except OSError:
            posix.open("/dev/null", posix.O_RDWR)  # the lowest number that is free: this one


def run(
    argv: list[str],
    *,
    document: Any = None,
    runtime: str = "",
    runtime_words: tuple[str, ...] = (),
) -> int:
    """Run the verb of a command line (without the program's name); its exit code. Raises Error. The
    keywords are for callers that have no command line (cli.options.Arguments)."""
    arguments = Arguments(argv, document=document, runtime=runtime, runtime_words=runtime_words)
    used = parse(argv, GLOBAL, arguments, stop=True)
    if arguments.has("--version"):
        sys.stdout.write(VERSION)
        return 0
    rest = argv[used:]
    if not rest or rest[0] in ("help", "h") or arguments.has("--help"):
        from urunc.cli.help import overview

        sys.stdout.write(overview(rest[1] if len(rest) > 1 and rest[0] == "help" else ""))
        return 0
    verb = rest[0]
    if verb not in VERBS and {"--help", "-h"} & set(rest[1:]):
        raise UsageError(f"No help topic for '{verb}'", f"known: {', '.join(VERBS)}")
    if verb not in VERBS:
        from urunc.cli.help import unknown

        raise unknown(verb)
    _begin(verb)
    module: Any = __import__(f"urunc.cli.{VERBS[verb]}", fromlist=("main",))
    if verb in FOREIGN and rest[1:2] not in (["--help"], ["-h"]):
        from urunc.ordinary import named

        _apply_globals(arguments, rest[1:])
        config = arguments.config()
        identifier = named(rest[1:], arguments.root)
        if identifier and not is_ours(arguments.root, identifier):
            arguments.hand_over(config)
        if hasattr(module, "before"):
            module.before(arguments, rest[1:], identifier)
    # global options are accepted after the verb, too
    parse(
        rest[1:],
        {**GLOBAL, **module.OPTIONS},
        arguments,
        stop=False,
        aliases=getattr(module, "ALIASES", None),
        free=hasattr(module, "FREE"),
    )
    if arguments.has("--help"):
        from urunc.cli.help import of_verb

        sys.stdout.write(of_verb(verb, module))
        return 0
    _apply_globals(arguments, () if verb in ("create", "run") else arguments.words)
    of_container = arguments.words and verb not in ("cache", "snapshot")
    logs.container = arguments.words[0] if of_container else ""
    return _main(verb, module, arguments)


def _main(verb: str, module: Any, arguments: Arguments) -> int:
    """A verb's own part; HostError where the machine refuses something, and nobody knows more of
    it."""
    try:
        code: int = module.main(arguments)
    except BrokenPipeError:
        raise
    except OSError as error:
        if logs.debug:
            raise
        file = f" '{error.filename}'" if error.filename else ""
        raise HostError(
            f"{verb} {logs.container}".rstrip() + f": {reason(error)}{file}", "--debug shows where"
        ) from None
    return code


def _begin(verb: str) -> None:
    """What has to be done before a verb's module is loaded."""
    if verb not in BRIEF:
        import gc

        gc.enable()  # the launcher has it disabled
    if verb in ("create", "run"):
        timing.stamp(0)
    elif verb == "start":
        timing.begin(11)


def _apply_globals(arguments: Arguments, words: Sequence[str]) -> None:
    """`words`: those that may name a container which is there."""
    root = arguments.get("--root")
    if not root:
        from urunc.places import root_of

        root = root_of(words)
    arguments.root = _absolute(root)
    arguments.config_path = arguments.get("--config")
    logs.path = arguments.get("--log")
    logs.json_format = arguments.get("--log-format", "text") == "json"
    logs.debug = arguments.has("--debug")
    logs.greet()


def _absolute(path: str) -> str:
    path = path if path.startswith("/") else f"{posix.getcwd()}/{path}"
    return path.rstrip("/") or "/"


if __name__ == "__main__":
    main()
