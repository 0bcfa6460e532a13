# SPDX-License-Identifier: Apache-2.0
"""What a quiet shim can do without: the pages of programs' files that it has read and not changed.

They stay in the page cache, where every other process finds them too; this process takes those back
that it comes to again. Of an interpreter that only waits that is nearly none.
"""

from __future__ import annotations

from urunc.linux import _linux
from urunc.linux.files import read_bytes

MADV_DONTNEED = 4


def give_back() -> None:
    """Let go of them (madvise(2)). Only of mappings without a page of their own: of such a page
    there is no other copy (proc_pid_smaps(5), `Anonymous`)."""
    first = last = 0
    for line in read_bytes("/proc/self/smaps").split(b"\n"):
        name, _, rest = line.partition(b" ")
        if b"-" in name and not name.endswith(b":"):
            fields = line.split()
            first = last = 0
            if len(fields) > 5 and fields[5].startswith(b"/") and fields[1] in (b"r-xp", b"r--p"):
                start, _, end = name.partition(b"-")
                first, last = int(start, 16), int(end, 16)
        elif name == b"Anonymous:" and first and rest.split()[0] == b"0":
            try:
                _linux.madvise(first, last - first, MADV_DONTNEED)
            except OSError:
                pass  # it is locked: it costs what it costs
