# SPDX-License-Identifier: Apache-2.0
"""A label of the node's, set by a pod with its service account: `KEY=VALUE`, or `KEY-` to take it
away.
"""

from __future__ import annotations

import json
import os
import pathlib
import ssl
import urllib.error
import urllib.request

from urunc.installer.host import Failure

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def label(node: str, words: list[str], account: str = ACCOUNT) -> None:
    """Set labels of a node's."""
    labels: dict[str, str | None] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals and not key.endswith("-"):
            raise Failure(f"'{word}': KEY=VALUE or KEY- was expected")
        labels[key if equals else key[:-1]] = value if equals else None
    directory = pathlib.Path(account)
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        token = (directory / "token").read_text().strip()
        context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        request = urllib.request.Request(
            f"https://{f'[{host}]' if ':' in host else host}:{port}/api/v1/nodes/{node}",
            json.dumps({"metadata": {"labels": labels}}).encode(),
            {
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/merge-patch+json",
                "Accept": "application/json",
            },
            method="PATCH",
        )
        with urllib.request.urlopen(request, timeout=30, context=context):
            pass
    except (OSError, urllib.error.HTTPError) as error:
        raise Failure(f"label node '{node}': {error}") from error
