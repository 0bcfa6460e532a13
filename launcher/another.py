# SPDX-License-Identifier: Apache-2.0
"""The installed programs' first code where Python is another than the one that they were compiled
for, as after an upgrade of the distribution: runs the modules from their sources, slowly, with one
warning. A container must be deleted all the same.

The installed scripts (urunc.in) run this with LIBRARY and ENTRY, as start.py.
It must be understood by any Python 3.
"""

import sys

LIBRARY = globals()["LIBRARY"]
REBUILD = LIBRARY + "/launcher/bundle.py"
NOW = "Python " + ".".join(map(str, sys.version_info[:2]))

if sys.version_info < (3, 11):  # noqa: UP036 (this one file is for older ones, too)
    sys.stderr.write(
        "urunc: error: " + sys.executable + " is " + NOW + ": 3.11 is the oldest that will do; "
        "install another, then urunc again\n"
    )
    sys.exit(1)
sys.dont_write_bytecode = True  # what is installed stays as it is
sys.path.append(LIBRARY)
logs = __import__("urunc.logs", fromlist=("later",))
logs.later = (
    "installed for another Python than this " + NOW + ": every call compiles urunc anew, which "
    "takes ten times as long; run: " + sys.executable + " -I " + REBUILD
)
ENTRY = globals()["ENTRY"]
__import__(ENTRY, fromlist=("main",)).main()
