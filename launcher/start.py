# SPDX-License-Identifier: Apache-2.0
"""The first Python code of the installed `urunc`: makes its modules importable from one file, and runs it.

The ordinary import of a module searches folders, then opens and checks a file; urunc's forty cost as much as a
third of the interpreter's start. Here they are the entries of one file that `bundle.py` wrote at install; the
modules stand beside it as files too, for people, tracebacks and whatever is imported later. Compiled by
`bundle.py`, run as a .pyc.
"""

import sys
from _frozen_importlib import ModuleSpec
from marshal import load, loads

LIBRARY = __file__.rpartition("/")[0]
with open(LIBRARY + "/modules", "rb") as file:
    MODULES = load(file)


class Bundle:
    """An importer (importlib.abc.MetaPathFinder and Loader) of what is in MODULES."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """The module's spec, None for what is not ours."""
        entry = MODULES.get(name)
        if entry is None:
            return None
        file, package, _ = entry
        spec = ModuleSpec(name, Bundle, origin=LIBRARY + "/" + file, is_package=package)
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
