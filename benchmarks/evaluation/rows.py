"""Results that are kept one by one, and tables and pictures of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import vl_convert

from bitq.files import write_atomically
from bitq.report.charts import INK

PICTURE_INK, PIXELS_PER_POINT = "#1b2028", 2.0
Result = dict[str, Any]
NOT_MEASURED = "not measured"


class Rows:
    """A folder with a JSON file for every finished result, named after all that it depends on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def once(self, config: Mapping[str, Any], compute: Callable[[], Result]) -> Result:
        """The result of this configuration, computed only if it is not there yet."""
        found = self.known(config)
        if found is None:
            found = compute()
            content = json.dumps({"config": config, "result": found}, indent=1)
            write_atomically(self._path(config), content.encode())
        return found

    def known(self, config: Mapping[str, Any]) -> Result | None:
        """The result of this configuration, if it is there."""
        path = self._path(config)
        return json.loads(path.read_text(encoding="utf-8"))["result"] if path.exists() else None

    def _path(self, config: Mapping[str, Any]) -> Path:
        told = json.dumps(config, sort_keys=True).encode()
        return self.folder / f"{sha256(told).hexdigest()[:24]}.json"


def write_table(
    folder: Path, name: str, header: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]
) -> None:
    """Write NAME.md and NAME.csv, print the first; `notes` stand below the table."""
    told = [header, ["---"] * len(header), *lines]
    text = "\n".join("| " + " | ".join(line) + " |" for line in told)
    text += "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    values = io.StringIO()
    csv.writer(values, lineterminator="\n").writerows([header, *lines])
    write_atomically(folder / f"{name}.md", text.encode())
    write_atomically(folder / f"{name}.csv", values.getvalue().encode())
    print(text)
    print(f"{folder / name}.md, .csv")


def write_picture(folder: Path, name: str, chart: Any, measured: bool = True) -> None:
    """Write NAME.png of an Altair chart, if anything in it was measured."""
    if not measured:
        return
    drawn = json.dumps({**chart.to_dict(), "background": "#ffffff"}).replace(INK, PICTURE_INK)
    write_atomically(folder / f"{name}.png", vl_convert.vegalite_to_png(drawn, scale=PIXELS_PER_POINT))
    print(f"{folder / name}.png")
