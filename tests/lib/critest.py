# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' own tests of a CRI implementation (critest of cri-tools) in a place of containerd's:
the images that they pull, made of busybox, and a run of them."""

from __future__ import annotations

import pathlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable

from lib import busybox
from lib.images import archive
from lib.places.containerd import Containerd

SERVER = """#!/bin/sh
# Stands in for a web server: its pid file, its page, a line in its log, its end by a signal.
mkdir -p /var/run
echo $$ >/var/run/nginx.pid
echo "httpd -D FOREGROUND"
httpd -f -p {port} -h /www &
trap 'kill $!; exit 0' TERM QUIT
wait
"""
PROGRAMS = {
    "pgrep": '#!/bin/sh\ncd /proc\ngrep -lx "$1" [0-9]*/comm 2>/dev/null | cut -d/ -f1\n',
    "ipcs": "#!/bin/sh\ncat /proc/sysvipc/shm\n",
}
"""What Debian's busybox has not."""
PASSWD = """root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534::/nonexistent:/bin/sh
www-data:x:33:33:www-data:/www:/bin/sh
default-user:x:1000:1000::/home/default-user:/bin/sh
"""
GROUP = """root:x:0:
www-data:x:33:
default-user:x:1000:
group-defined-in-image:x:50000:default-user
"""
STAGING, E2E = "k8s-staging-cri-tools", "e2e-test-images"
# name → the user of the image
BOXES = {
    f"{E2E}/busybox:1.29-2": "",
    f"{E2E}/busybox:1.29-4": "",
    "pause:3.9": "",
    **{f"{STAGING}/test-image-{name}": "" for name in
       ("latest:latest", "tag:test", "tag:all", "1:latest", "2:latest", "3:latest")},
    **{f"{STAGING}/test-image-tags:{number}": "" for number in (1, 2, 3)},
    f"{STAGING}/test-image-user-uid:latest": "1002",
    f"{STAGING}/test-image-user-username:latest": "www-data",
    f"{STAGING}/test-image-user-uid-group:latest": "1003:1003",
    f"{STAGING}/test-image-user-username-group:latest": "www-data:www-data",
    f"{STAGING}/test-image-predefined-group:latest": "1000",
}  # fmt: skip
SERVERS = {
    f"{E2E}/nginx:1.14-2": 80,
    f"{E2E}/httpd:2.4.39-4": 80,
    f"{STAGING}/hostnet-nginx-amd64:latest": 12003,
}
SKIPPED = (
    "public image with digest",  # its content is somebody else's
    "MaskedPaths",  # masks /bin/ls, with busybox the program of everything
    "NoNewPrivs",  # a program with the set-user-ID bit
)


def images(directory: pathlib.Path) -> list[pathlib.Path]:
    """Their archives, by the names that critest has for them, without their registries."""
    box = busybox.files(*busybox.applets()) | {
        "etc/passwd": PASSWD.encode(),
        "etc/group": GROUP.encode(),
        "www/index.html": b"a page\n",
        "tmp/.keep": b"",
    }
    box |= {f"bin/{name}": script.encode() for name, script in PROGRAMS.items()}
    made: list[pathlib.Path] = []
    for name, user in BOXES.items():
        # three tags of one name are one image; three names are three
        own = b"tags" if "test-image-tags" in name else name.encode()
        path = directory / f"{len(made)}.tar"
        made.append(archive(path, name, box | {"etc/image": own}, ["/bin/sh"], user=user))
    for name, port in SERVERS.items():
        contents = box | {"usr/sbin/nginx": SERVER.format(port=port).encode()}
        path = directory / f"{len(made)}.tar"
        made.append(archive(path, name, contents, ["/usr/sbin/nginx", "master process"]))
    return made


def run(
    place: Containerd, program: pathlib.Path, handler: str, only: Iterable[str] = (),
    timeout_s: float = 900,
) -> dict[str, str]:  # fmt: skip
    """Run them with a handler, all or `only` some by their names; each name's end: `passed`,
    `failed`, `skipped`."""
    report = f"{place.space}/critest.xml"
    focus = [f"-ginkgo.focus={re.escape(name)}$" for name in only]
    place.run(
        str(program), f"-runtime-endpoint=unix://{place.space}/containerd.sock",
        f"-runtime-handler={handler}",
        f"-ginkgo.skip={'|'.join(SKIPPED)}",
        f"-ginkgo.junit-report={report}", "-ginkgo.no-color", "-ginkgo.succinct", *focus,
        check=False, timeout_s=timeout_s,
    )  # fmt: skip
    found = {}
    for case in ElementTree.parse(place.seen(report)).iter("testcase"):
        if case.get("name", "").startswith("[It] "):
            name = case.get("name", "").removeprefix("[It] ")
            found[name] = case.get("status", "")
    return found
