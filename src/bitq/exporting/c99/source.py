"""A network as C: the files of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from bitq.exporting.c99.pieces_of_c import needed
from bitq.exporting.c99.steps import Schedule
from bitq.exporting.c99.writing import Writer

FILES = ("network.h", "network.c", "main.c", "Makefile")


class Written(NamedTuple):
    """What a network becomes.

    Attributes:
        files: text by name.
        weight_bytes: of packed weights.
        constant_bytes: of what layers need besides: gains, shifts, offsets, tables.
        activation_bytes: of the memory of all tensors.
        ram_bytes: of all static memory, with what steps work on.
    """

    files: dict[str, str]
    weight_bytes: int
    constant_bytes: int
    activation_bytes: int
    ram_bytes: int


def identifier(name: str) -> str:
    """A name in C from any text."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", name)[:40].strip("_")
    return found if found and not found[0].isdigit() else f"net_{found}".strip("_")


def written(network: Schedule, name: str) -> Written:
    """The files of a network.

    Args:
        network: its steps.
        name: an identifier that all public names begin with.
    """
    writer = Writer(network)
    body = writer.body(name)
    upper = name.upper()
    header = _HEADER.format(
        name=name, upper=upper, inputs=network.inputs, outputs=network.outputs,
        activations=writer.arena.size, ram=writer.ram,
        input_shape=_shape(network.input_shape), output_shape=_shape(network.output_shape),
    )  # fmt: skip
    source = _SOURCE.format(pieces=needed(body), body=body, upper=upper)
    digest = int(sha256(f"{name}{source}".encode()).hexdigest()[:8], 16)
    texts = header.replace("DIGEST_OF_BOTH", f"{digest:#010x}"), source.replace("DIGEST_OF_BOTH", f"{digest:#010x}")
    files = dict(zip(FILES, (*texts, _MAIN.format(name=name, upper=upper), _MAKEFILE), strict=True))
    return Written(files, writer.weight_bytes, writer.constant_bytes, writer.arena.size, writer.ram)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


_HEADER = """\
/* Written by bitq: a network in the number formats of a plan. docs/c.md of bitq defines the arithmetic. */
#ifndef {upper}_H
#define {upper}_H

#define {upper}_INPUTS {inputs} /* numbers: {input_shape} */
#define {upper}_OUTPUTS {outputs} /* numbers: {output_shape} */
#define {upper}_ACTIVATIONS {activations} /* bytes of static memory that hold tensors */
#define {upper}_RAM {ram} /* bytes of static memory, with what each step works on */
#define {upper}_DIGEST DIGEST_OF_BOTH /* of network.c, which belongs to this file */

/* Computes {upper}_OUTPUTS numbers of {upper}_INPUTS finite ones. Not reentrant: it works in static memory. */
void {name}_run(const float *input, float *output);

#endif
"""

_SOURCE = """\
/* Written by bitq; docs/c.md of bitq defines the arithmetic. */
#include "network.h"

#if {upper}_DIGEST != DIGEST_OF_BOTH
#error "network.h and network.c are of two exports; export once more"
#endif

#include <stdint.h>
#include <string.h>

/* Negative numbers are shifted to the right as two's complement, rounded down. */
typedef char bitq_shifts_are_arithmetic[(-1 >> 1) == -1 ? 1 : -1];

/* Functions that would only grow the code where they are called. */
#if defined(__GNUC__)
#define BITQ_APART __attribute__((noinline))
#else
#define BITQ_APART
#endif
{pieces}{body}"""

_MAIN = """\
/* Written by bitq: reads inputs, float32, one after the other from stdin, and writes the outputs of each to stdout. */
#include "network.h"

#include <stdio.h>

int main(void)
{{
    static float input[{upper}_INPUTS], output[{upper}_OUTPUTS];
    while (fread(input, sizeof input, 1, stdin) == 1) {{
        {name}_run(input, output);
        if (fwrite(output, sizeof output, 1, stdout) != 1)
            return 1;
    }}
    return 0;
}}
"""

_MAKEFILE = """\
# Written by bitq. make run: a program that reads float32 inputs from stdin and writes float32 outputs to stdout.
CFLAGS ?= -O2
WARNINGS = -std=c99 -pedantic -Wall -Wextra -Wconversion

run: network.c main.c network.h
\t$(CC) $(CFLAGS) $(WARNINGS) network.c main.c -o $@

clean:
\trm -f run

.PHONY: clean
"""
