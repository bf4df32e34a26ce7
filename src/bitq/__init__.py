"""bitq: which block floating point format every tensor of a network should have, so that the fewest bits move.

The names, which stand in `__init__.pyi`, are loaded when they are first used: `import bitq` and `bitq --help` answer at
once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
