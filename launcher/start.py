# SPDX-License-Identifier: Apache-2.0
"""The first code of the installed `urunc`: makes its modules importable from one file, and runs it.

The ordinary import of a module searches folders, then opens and checks a file; urunc's forty cost as much as a
third of the interpreter's start. Here they are entries of one file, MODULES, that `bundle.py` wrote at install;
they stand beside it as files too, for people, tracebacks and whatever is imported later. bin/urunc (urunc.in)
runs this with MODULES and LIBRARY, the folder of both.
"""

import sys
from _frozen_importlib import ModuleSpec
from marshal import loads

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
        file, package, _ = entry
        spec = ModuleSpec(name, Bundle, origin=f"{LIBRARY}/{file}", is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations.append(spec.origin.rpartition("/")[0])
        return spec

    @staticmethod
    def create_module(spec):
        """Let the import system make it."""
        return None

    @staticmethod
    def exec_module(module):
        """Run the module's code, which is unpacked only now."""
        exec(loads(MODULES[module.__name__][2]), module.__dict__)


sys.meta_path.insert(0, Bundle)
sys.path.append(LIBRARY)

from urunc.__main__ import main  # noqa: E402

main()
