# SPDX-License-Identifier: Apache-2.0
"""`urunc config`: prints every key of the configuration with its value and the value's source."""

from __future__ import annotations

import sys

from urunc import config as configuration
from urunc.cli.options import Arguments
from urunc.jsontext import dumps
from urunc.monitors import BUILT_IN as MONITORS

OPTIONS: dict[str, tuple[str, str]] = {}
USAGE = ""
SUMMARY = "Print the configuration as TOML, with each value's source."


def main(arguments: Arguments) -> int:
    from urunc.guests import BUILT_IN as GUESTS

    arguments.only()
    config = arguments.config()
    names = {
        "monitors": sorted({*MONITORS, *config.names("monitors")}),
        "guests": sorted({*GUESTS, *config.names("guests")}),
    }
    rows = []
    for pattern in configuration.SCHEMA:
        section, _, rest = pattern.partition(".*.")
        keys = [f"{section}.{name}.{rest}" for name in names[section]] if rest else [pattern]
        rows += [(key, f"{key} = {dumps(config.get(key))}") for key in keys]
    width = max(len(text) for _, text in rows)
    for key, text in rows:
        sys.stdout.write(f"{text:{min(width, 52)}}  # {config.source(key)}\n")
    return 0
