"""Triton's interpreter without what it does over and over: the same numbers in a third of the time.

    install()       once, before the first launch; quick_child/ does it in a command that a test runs

It patches triton.language at each launch and again at each call of a jit function inside a kernel: all members of four
modules and classes are listed and sorted to find those that are not patched yet, which are none. That was half of the
time of a launch. Here a call inside a launch finds the language patched, and a launch repeats the assignments that the
first one made. What is computed, and what a launch restores, stays Triton's own.

A Triton that does this otherwise is left as it is: every part looks for what it replaces, and gives way.
"""

import inspect

from triton import language
from triton.language import core
from triton.runtime import interpreter

_WANTED = ("_patch_lang", "_LangPatchScope", "_get_np_dtype")


def install() -> bool:
    """Whether this Triton could be helped."""
    if not all(hasattr(interpreter, name) for name in _WANTED):
        return False
    if not all(hasattr(interpreter._LangPatchScope, name) for name in ("set_attr", "restore")):
        return False
    if not isinstance(interpreter._patch_lang, Patches):
        interpreter._patch_lang = Patches(interpreter._patch_lang)
        interpreter._get_np_dtype = _remembered_by_name(interpreter._get_np_dtype)
        core.block_type.__init__ = _quick_block_type(core.block_type.__init__)
        core.tensor.__init__ = _quick_tensor(core.tensor.__init__)
    return True


class Patches:
    """In place of interpreter._patch_lang."""

    def __init__(self, patch):
        self.patch = patch
        self.active = frozenset()  # the modules that are patched now
        self.scopes = []  # which the launch in progress restores
        self.changes = {}  # by what was patched before and what is to be: what Triton assigned
        self.languages = {}  # by a function's globals, which hold them

    def __call__(self, fn):
        wanted = self._languages(fn)
        if wanted and wanted <= self.active:
            return _Nothing
        outermost = not self.active
        scope = self._apply(fn, wanted)
        self.active |= wanted
        self.scopes.append(scope)
        return self if outermost else _Nothing

    def restore(self):
        while self.scopes:
            self.scopes.pop().restore()
        self.active = frozenset()

    def _apply(self, fn, wanted):
        key = self.active, wanted
        if key not in self.changes:
            scope = self.patch(fn)
            self.changes[key] = [(owner, name, vars(owner)[name]) for owner, name, _ in scope._changes]
            return scope
        scope = interpreter._LangPatchScope()
        for owner, name, value in self.changes[key]:
            scope.set_attr(owner, name, value)
        return scope

    def _languages(self, fn):
        """triton.language and its core, as far as a function sees them."""
        names = fn.__globals__
        if id(names) not in self.languages:  # the names are kept too, lest another dictionary get the id
            found = frozenset(v for v in names.values() if inspect.ismodule(v) and (v is language or v is core))
            self.languages[id(names)] = names, found
        return self.languages[id(names)][1]


class _Nothing:
    """The scope of a call inside a launch."""

    @staticmethod
    def restore():
        pass


def _remembered_by_name(np_dtype):
    """Triton's types are equal where their names are; the table of all was made anew for every value."""
    known = {}

    def remembered(tt_dtype):
        try:
            return known[tt_dtype.name]
        except KeyError:
            return known.setdefault(tt_dtype.name, np_dtype(tt_dtype))

    return remembered


def _quick_block_type(init):
    """Of an element type and a shape there are few, and each was built and written out for every value."""
    known = {}

    def __init__(self, element_ty, shape):
        key = element_ty.name, *[s.value if type(s) is core.constexpr else s for s in shape]
        found = known.get(key)
        if found is None:
            init(self, element_ty, shape)
            known[key] = {name: value for name, value in vars(self).items() if name != "element_ty"}
        else:
            self.__dict__.update(found)
            self.element_ty = element_ty

    return __init__


def _quick_tensor(init):
    """What a tensor says of its shape follows from its type, and nobody writes to it."""
    known = {}

    def __init__(self, handle, type):
        found = known.get(type.name)
        if found is None:
            init(self, handle, type)
            known[type.name] = {name: value for name, value in vars(self).items() if name not in ("handle", "type")}
        else:
            self.__dict__.update(found)
            self.handle = handle
            self.type = type

    return __init__
