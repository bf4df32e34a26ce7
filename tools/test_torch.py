"""Runs the tests of what bitq needs of PyTorch beyond its documentation with another version of it.

    python tools/test_torch.py 2.10.0

makes the environment .venv-torch/2.10.0 with that version, in pyproject.toml's range or not. The range is what passed.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ("private_torch", "tracing", "stored", "operators", "straight", "quantized", "folding")


def main(version: str) -> int:
    """Set up, test, and return pytest's exit code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    others = [each for each in needed if not each.startswith("torch")]
    folder = ROOT / ".venv-torch" / version
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([*pip, f"torch=={version}", *others], check=True, cwd=ROOT)
    subprocess.run([*pip, "--no-deps", "--editable", "."], check=True, cwd=ROOT)
    tests = [f"tests/test_{name}.py" for name in TESTS]
    return subprocess.run([python, "-m", "pytest", "-p", "no:cacheprovider", *tests], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
