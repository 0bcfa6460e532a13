# SPDX-License-Identifier: Apache-2.0
"""The installed programs' first code: makes modules importable from one file, and runs one.

The ordinary import of a module searches directories, then opens and checks a file; urunc's forty
cost as much as a third of the interpreter's start. Here their code is in one file, and MODULES says
where; `bundle.py` wrote both at install. They stand beside it as files too, for people and
tracebacks. bin/urunc and bin/containerd-shim-urunc-v2 (urunc.in) run this with MODULES, LIBRARY,
the directory of all of it, and ENTRY, the module whose `main` it is.
"""

import sys
from _frozen_importlib import ModuleSpec
from marshal import loads
from posix import O_CLOEXEC, O_RDONLY, close, open, pread

MODULES = globals()["MODULES"]
LIBRARY = globals()["LIBRARY"]


class Bundle:
    """An importer (importlib.abc.MetaPathFinder and Loader) of what is in MODULES."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """The module's spec, None for what is not ours."""
        entry = MODULES.get(name)
        if entry is None:
            return None
        file, package, _, _ = entry
        spec = ModuleSpec(name, Bundle, origin=f"{LIBRARY}/{file}", is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations.append(spec.origin.rpartition("/")[0])
        return spec

    @staticmethod
    def create_module(spec):
        """Let the import system make it."""
        return

    @staticmethod
    def exec_module(module):
        """Read the module's code and run it."""
        _, _, offset, size = MODULES[module.__name__]
        fd = open(LIBRARY + "/code", O_RDONLY | O_CLOEXEC)
        code = pread(fd, size, offset)
        close(fd)
        exec(loads(code), module.__dict__)


sys.meta_path.insert(0, Bundle)
sys.path.append(LIBRARY)

ENTRY = globals()["ENTRY"]
__import__(ENTRY, fromlist=("main",)).main()
