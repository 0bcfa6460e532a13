# SPDX-License-Identifier: Apache-2.0
"""The command line of deploy/install, for the nodes of a Kubernetes cluster."""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import sys

from urunc.installer import nodes, program
from urunc.installer.host import Failure, Host, locked
from urunc.installer.job import Job
from urunc.installer.label import label
from urunc.installer.node import Node


def parser() -> argparse.ArgumentParser:
    """The verbs and their options."""
    own = argparse.ArgumentParser(
        "deploy/install", description="urunc as a runtime of a Kubernetes node"
    )
    verbs = own.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in (
        ("install", "copy urunc, configure the engine, restart it, see that it is well"),
        ("verify", "say what there is of urunc; exit 1 where something lacks"),
        ("uninstall", "take away what install made"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("--host", default="/", metavar="DIRECTORY", help="the node's root (/)")
        verb.add_argument("--prefix", default="/usr/local", help="where on the node (/usr/local)")
        verb.add_argument("--engine", default="auto", choices=("auto", *nodes.KINDS))
        verb.add_argument("--config", default="", help="containerd's configuration, if elsewhere")
        verb.add_argument("--socket", default="", help="the engine's socket, if elsewhere")
        if name == "verify":
            continue
        verb.add_argument(
            "--restart",
            default="auto",
            help="auto, systemd, openrc, signal, none, or a command of the node's",
        )
        verb.add_argument("--dry-run", action="store_true", help="show, and change nothing")
        if name == "install":
            verb.add_argument("--source", default="", help="a PREFIX that `make install` made")
            verb.add_argument(
                "--shim",
                default="runc",
                choices=("runc", "urunc"),
                help="containerd's: runc's, or urunc's own, not yet tried with CRI (runc)",
            )
            verb.add_argument("--python", default="", help="an interpreter to bring along")
        else:
            verb.add_argument("--force", action="store_true", help="though containers run")
    verb = verbs.add_parser("label", help="set labels of a node's, from a pod")
    verb.add_argument("node")
    verb.add_argument("labels", nargs="+", metavar="KEY=VALUE|KEY-")
    verbs.add_parser("wait", help="do nothing until a signal: a pod's main program")
    return own


def source(options: argparse.Namespace, here: pathlib.Path) -> program.Source:
    """What to install: the directories that the options name, or else those below `here`."""
    places = [here / "prefix", here / "build/prefix"]
    prefix = pathlib.Path(options.source) if options.source else None
    prefix = prefix or next((place for place in places if place.is_dir()), places[-1])
    python = pathlib.Path(options.python) if options.python else here / "python"
    return program.Source(prefix, here / "launcher", python if python.is_dir() else None)


def run(options: argparse.Namespace, here: pathlib.Path) -> int:
    """Run a verb, with /run of the node locked against other installers: the exit code. Raises
    Failure."""
    if options.verb == "label":
        label(options.node, options.labels)
        return 0
    if options.verb == "wait":
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        return 0
    host = Host(options.host, dry=getattr(options, "dry_run", False))
    with locked(host):
        return _work(options, host, here)


def _work(options: argparse.Namespace, host: Host, here: pathlib.Path) -> int:
    prefix = "/" + options.prefix.strip("/")
    job = Job(
        host,
        prefix,
        getattr(options, "restart", "none"),
        force=getattr(options, "force", False),
        shim=getattr(options, "shim", "runc") == "urunc",
    )
    node: Node | None
    try:
        node = nodes.find(host, options.engine, options.config, options.socket)
    except Failure as error:
        if options.verb != "uninstall":
            raise
        host.say(f"only urunc's own files are removed: {error}")
        node = None
    if options.verb == "install" and node:
        job.install(node, source(options, here))
    elif options.verb == "verify" and node:
        return 0 if job.verify(node) else 1
    else:
        job.uninstall(node)
    return 0


def main(here: pathlib.Path) -> int:
    """The command line of the program in `here`/deploy, with a Failure on standard error and as
    exit code 1."""
    options = parser().parse_args()
    if options.verb == "wait":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        if options.verb not in ("label", "wait") and os.geteuid() != 0:
            raise Failure("needs root")
        return run(options, here)
    except Failure as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
