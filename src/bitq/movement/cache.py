"""Tables of plans kept on disk, so that what was solved once is read the next time.

An entry's name is a digest of everything its numbers depend on: the shape of the layer, the widths, the capacities,
what is minimized, how, and the code that solves. Entries appear by an atomic rename, so any number of processes may
write at once, and carry a checksum: one that is damaged or cut short counts as absent and is written anew. The
cache is an aid alone: where it cannot be read or written, everything is computed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from bitq import layers
from bitq.devices import Device
from bitq.errors import BitqError
from bitq.files import replacing
from bitq.layers import LOOPS, Layer
from bitq.movement import _engine
from bitq.movement.model import Tiling
from bitq.movement.tiled import PlanTable

FOLDER_VARIABLE = "BITQ_CACHE_DIR"
"""Environment variable with the folder to use instead of the user's cache folder; empty: keep nothing."""

MOST_BYTES = 1 << 30
MOST_ENTRIES = 4096
"""What the cache may grow to; the entries that were not used for longest go first."""

_SLACK = 16
"""By one part in so many it may lie above or below that: looking at all entries costs more than writing one."""

_SUFFIX = ".traffic"
_CHECKSUM_BYTES = hashlib.sha256().digest_size


def _digest_of_code() -> bytes:
    """Digest of all that turns a question into numbers: the compiled engine and the modules around it."""
    digest = hashlib.sha256()
    for path in (Path(_engine.__file__), Path(layers.__file__), *sorted(Path(__file__).parent.glob("*.py"))):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


_CODE = _digest_of_code()  # when the code is loaded, not when it may have changed on disk


def cached(layer: Layer, widths: NDArray[np.float64], device: Device, compute: Callable[[], PlanTable]) -> PlanTable:
    """The table that `compute` returns, from disk if it was kept there.

    Args:
        layer: asked about; its names do not matter.
        widths: array (n, 3) or (n, 4) of bits per element.
        device: its memories, and what is minimized.
        compute: returns the table of these widths; what it raises is passed on and not kept.

    Returns:
        A table of the caller's own, the same to the bit whether computed or read.
    """
    folder = _folder()
    if folder is None:
        return compute()
    key = _key(layer, widths, device)
    path = folder / f"{key.hex()}{_SUFFIX}"
    found = _read(path, key, len(widths), len(device.boundaries))
    if found is None:
        found = compute()
        _write(path, key, found)
    return found


def _folder() -> Path | None:
    root = os.environ.get(FOLDER_VARIABLE)
    if root is None:
        root = platformdirs.user_cache_dir("bitq", appauthor=False)
    return Path(root) / "movement" if root else None


def _key(layer: Layer, widths: NDArray[np.float64], device: Device) -> bytes:
    shape = replace(layer.unnamed, weight_is_parameter=True, depth=1)
    capacities = [float(memory.capacity_bits) for memory, _ in device.boundaries]
    asked = (shape, capacities, list(device.prices), str(device.planned), widths.shape)
    digest = hashlib.sha256(_CODE)
    digest.update(repr(asked).encode())
    digest.update(widths.astype("<f8").tobytes())
    return digest.digest()


def _checksum(key: bytes, content: bytes) -> bytes:
    return hashlib.sha256(key + content).digest()


def _read(path: Path, key: bytes, rows: int, boundaries: int) -> PlanTable | None:
    size, of_plan = rows * (8 * boundaries + 4), boundaries * 2 * len(LOOPS) * 8
    try:
        with path.open("rb") as file:
            checksum, content = file.read(_CHECKSUM_BYTES), file.read(size + rows * of_plan + 1)
    except OSError:
        return None
    plans, rest = divmod(len(content) - size, of_plan)
    if plans < 0 or rest or checksum != _checksum(key, content):
        return None
    with suppress(OSError):
        os.utime(path)  # used now: the last to go
    bits = np.ndarray((rows, boundaries), dtype="<f8", buffer=content).astype(np.float64)
    chosen = np.ndarray(rows, dtype="<i4", buffer=content, offset=8 * rows * boundaries).astype(np.int32)
    encoded = np.ndarray((plans, boundaries, 2, len(LOOPS)), dtype="<i8", buffer=content, offset=size).tolist()
    return PlanTable(bits, chosen, tuple(tuple(map(_decoded, plan)) for plan in encoded))


def _decoded(tiling: list[list[int]]) -> Tiling:
    order, tiles = tiling
    return Tiling(tuple(LOOPS[loop] for loop in order if loop >= 0), dict(zip(LOOPS, tiles, strict=True)))


def _encoded(tiling: Tiling) -> list[list[int]]:
    """The order as places in `LOOPS`, -1 behind them for loops that it leaves out, and the tile sizes."""
    order = [LOOPS.index(loop) for loop in tiling.permutation]
    return [order + [-1] * (len(LOOPS) - len(order)), [tiling.tiles[loop] for loop in LOOPS]]


def _write(path: Path, key: bytes, table: PlanTable) -> None:
    plans = np.array([[_encoded(tiling) for tiling in plan] for plan in table.plans], dtype="<i8")
    content = b"".join((table.bits.astype("<f8").tobytes(), table.chosen.astype("<i4").tobytes(), plans.tobytes()))
    with suppress(OSError, BitqError):
        with replacing(path, durable=False) as file:
            file.write(_checksum(key, content) + content)
        _unseen[path.parent] = _unseen.get(path.parent, MOST_BYTES) + len(content)
        with os.scandir(path.parent) as names:
            count = sum(1 for _ in names)
        if count > MOST_ENTRIES or _unseen[path.parent] > MOST_BYTES // _SLACK:
            _evict(path.parent)
            _unseen[path.parent] = 0


_unseen: dict[Path, int] = {}
"""By folder, the bytes that this process wrote since it looked at all entries."""


def _evict(folder: Path) -> None:
    """Remove what lies beyond the bounds, newest entries first kept; and some more, if there are too many."""
    entries = []
    for entry in folder.glob(f"*{_SUFFIX}"):
        with suppress(FileNotFoundError):  # another process evicts as well
            status = entry.stat()
            entries.append((status.st_mtime_ns, status.st_size, entry))
    size, most = 0, MOST_ENTRIES - (MOST_ENTRIES // _SLACK if len(entries) > MOST_ENTRIES else 0)
    for place, (_, entry_size, entry) in enumerate(sorted(entries, reverse=True)):
        size += entry_size
        if place >= most or size > MOST_BYTES:
            entry.unlink(missing_ok=True)
