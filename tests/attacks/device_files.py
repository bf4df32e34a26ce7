"""By the door of device files (TOML)."""

from __future__ import annotations

from pathlib import Path

from attacks import attack


@attack("devices d.toml", "d.toml is not TOML")
def no_text(folder: Path) -> None:
    """Bytes that are no UTF-8."""
    (folder / "d.toml").write_bytes(b'title = "\xff\xfe"')
