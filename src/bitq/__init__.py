"""bitq: which block floating point format every tensor of a network should have, so that the fewest bits move.

The names, which stand in `__init__.pyi`, are loaded when they are first used: `import bitq` and `bitq --help` answer at
once, and `bitq` answers an interrupt before it loads anything.
"""


def __getattr__(name):
    """Take over the names of the stub, the first time that one is asked for."""
    import sys

    import lazy_loader

    names = globals()
    names["__getattr__"], names["__dir__"], names["__all__"] = lazy_loader.attach_stub(__name__, __file__)
    return getattr(sys.modules[__name__], name)


def __dir__():
    return __getattr__("__dir__")()
