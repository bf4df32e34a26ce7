"""All C under AddressSanitizer and UndefinedBehaviorSanitizer, on memory between forbidden pages (`guarded.py`)."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "bitq"
FLAGS = ("-g", "-std=c11", "-ffp-contract=off", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fPIC")
STREAM = """
#include "stream.h"
#ifdef X86
const int has_streams = 1;
void bitq_try_stream(void *to, const void *from, int64_t bytes) { stream_anywhere(to, from, bytes); }
#else
const int has_streams = 0;
#endif
"""
"""The writer of processors without AVX-512, which those that have it never take."""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """Runs a part of guarded.py on a library of all C sources."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "gcc").split()[0]
    if not sys.platform.startswith("linux") or shutil.which(compiler) is None:
        pytest.skip("needs Linux and a C compiler")
    runtime = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip(f"{compiler} has no AddressSanitizer that a process can be given beforehand")
    folder = tmp_path_factory.mktemp("sanitized")
    (folder / "stream.c").write_text(STREAM)
    paths = [folder / "stream.c", *(p for p in SOURCES.glob("*/*.c") if not p.name.startswith("_"))]
    includes = [f"-I{SOURCES / part}" for part in ("numerics", "movement")]
    compilations = [
        subprocess.Popen([compiler, *FLAGS, *openmp, *includes, "-c", path, "-o", folder / f"{path.stem}.o"])
        for path in paths
        for openmp in [["-fopenmp"] if path.stem == "kernel" else []]
    ]
    assert [running.wait() for running in compilations] == [0] * len(paths)
    library = folder / "all.so"
    objects = sorted(folder.glob("*.o"))
    subprocess.run([compiler, "-shared", *FLAGS, "-fopenmp", *objects, "-o", library, "-lm"], check=True)

    def run(part):
        environment = os.environ | {
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it has at exit
            "PYTHONMALLOC": "malloc",  # each object of its own, for the sanitizer to watch
            "OMP_NUM_THREADS": "2",
        }
        script = Path(__file__).with_name("guarded.py")
        return subprocess.run(
            [sys.executable, script, library, part, SOURCES], env=environment, capture_output=True, text=True
        )

    return run


@pytest.mark.parametrize("part", ["numerics", "movement"])
def test_c_stays_within_its_memory_and_its_language(sanitized, part):
    told = sanitized(part)
    assert told.returncode == 0, told.stderr[-5000:]
    assert told.stdout == "clean\n"


def test_a_byte_too_far_is_noticed(sanitized):
    told = sanitized("overread")
    assert told.returncode != 0
    assert "AddressSanitizer: SEGV" in told.stderr
    assert "read_fields" in told.stderr
