# SPDX-License-Identifier: Apache-2.0
"""The installed programs' first code: makes modules importable from one file, and runs one.

The ordinary import of a module searches directories, then opens and checks a file; urunc's forty
cost as much as a third of the interpreter's start. Here their code is in one file, and MODULES says
where; `bundle.py` wrote both at install. They stand beside it as files too, for people and
tracebacks. The installed scripts (urunc.in) run this with MODULES, LIBRARY, the directory
of all of it, CODE, the name of the code's file, ENTRY, the module whose `main` it is, and TOGETHER:
module → the modules that it imports, to be loaded at once, and where their code is.
"""

import builtins
import gc
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from marshal import loads
from posix import O_CLOEXEC, O_RDONLY, close, open, pread, stat

MODULES = globals()["MODULES"]
LIBRARY = globals()["LIBRARY"]
CODE = LIBRARY + "/" + globals()["CODE"]
TOGETHER = globals()["TOGETHER"]


class Bundle:
    """An importer (importlib.abc.MetaPathFinder and Loader) of what is in MODULES."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """The module's spec, None for what is not ours."""
        entry = MODULES.get(name)
        if entry is None:
            return None
        if not entry[3]:
            return compiled(name, entry[0])
        if name in TOGETHER:
            load_together(name, *TOGETHER[name])
        return Bundle.spec_of(name, entry)

    @staticmethod
    def spec_of(name, entry):
        """The spec of a module of ours."""
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
        """Run the module's code, which may have come with that of others."""
        name = module.__name__
        code = ready.pop(name, None) or read(*MODULES[name][2:])
        exec(code, module.__dict__)


def compiled(name, file):
    """The spec of a module in C by its file; None where that is elsewhere by now, for whoever
    searches."""
    if not file.startswith("/"):
        file = f"{LIBRARY}/{file}"
    try:
        stat(file)
    except OSError:
        return None
    return ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)


def read(offset, size):
    """What is at this place of the file."""
    try:
        fd = open(CODE, O_RDONLY | O_CLOEXEC)
    except FileNotFoundError:
        raise ImportError("urunc was installed anew meanwhile: try again") from None
    code = pread(fd, size, offset)
    close(fd)
    return loads(code)


def load_together(entry, names, offset, size):
    """Run these modules in this order, in which each finds those that it imports: without the
    import system, which takes as long again for each. Their code is one piece of the file, so that
    what they have in common is made once; the last in it is `entry`'s, whose turn is next."""
    if all(name in known for name in names):
        return
    *codes, ready[entry] = read(offset, size)
    builtins.__import__ = import_known
    try:
        run(names, codes)
    finally:
        builtins.__import__ = import_any


def import_known(name, globals=None, locals=None, fromlist=(), level=0):
    """`from name import …` of what is there already. Python's own builds an error's text each time
    that a module is no package, and drops it."""
    module = known.get(name) if fromlist and not level else None
    if module:
        has = module.__dict__
        if "__path__" not in has:
            return module
        for wanted in fromlist:
            if wanted not in has:
                break
        else:
            return module
    return import_any(name, globals, locals, fromlist, level)


def run(names, codes):
    """Run the modules of a piece."""
    for name, code in zip(names, codes, strict=True):
        if name in known:
            continue
        file = MODULES[name]
        spec = Bundle.spec_of(name, file)
        module = Module(name)
        module.__spec__, module.__loader__, module.__file__ = spec, Bundle, spec.origin
        parent, _, last = name.rpartition(".")
        module.__package__ = parent
        if parent and parent not in known:
            __import__(parent)  # it is in another piece, that of what usually comes before
        if file[1]:
            module.__package__, module.__path__ = name, spec.submodule_search_locations
        known[name] = module
        exec(code, module.__dict__)
        if parent:
            setattr(known[parent], last, module)


ready = {}
known = sys.modules
import_any = builtins.__import__
Module = type(sys)
sys.meta_path.insert(0, Bundle)
sys.path.append(LIBRARY)

gc.disable()  # there is no garbage in code; who goes on for long has it enabled again
ENTRY = globals()["ENTRY"]
__import__(ENTRY, fromlist=("main",)).main()
