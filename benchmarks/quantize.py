"""How fast quantization is, against copying the tensor and against other libraries, interleaved in one process.

    python benchmarks/quantize.py                          # activations, weights; blocks of 16, 32; 1 and 2 threads
    python benchmarks/quantize.py --peers SITE_PACKAGES    # beside brevitas, torchao, amd-quark, those that are there
    python benchmarks/quantize.py --small                  # what one call costs beside its work, too
    python benchmarks/quantize.py --cases weights --threads 2    # a part of it
    python benchmarks/quantize.py --blocks --formats mxfp4 nvfp4 # other formats alone
    python benchmarks/quantize.py --device cuda            # a GPU alone

Peers come from a folder that pip filled without their dependencies, for torch must not move; what else they need is in
the environment of `make env`. The last two lines are what amd-quark imports; it compiles its kernel on first use, with
a C++ compiler and the command ninja:

    python -m venv --without-pip /tmp/peers
    pip --python /tmp/peers/bin/python install --no-deps brevitas torchao dependencies==2.0.1 unfoldNd tqdm \\
        amd-quark onnxslim psutil transformers tokenizers sentencepiece regex \\
        huggingface_hub httpx2 httpcore2 truststore

`out=` is held against `copy_` into the same tensor, a fresh result against `clone()`. Every number is the median of
rounds in which all candidates take turns; the quartiles of `copy_` tell how quiet the machine was. Formats have 8 bits
and 3 of exponent; each tensor is quantized with a given exponent bias, as calibration gives it to activations, and with
the default one, which weights have. Other formats stand beside them, with an aim of their own. Peers quantize as near
to this as they can: their own 8-bit format, the same block
(torchao only along the last axis, so it gets the channels there; amd-quark only blocks of 8). None of them writes to a
given tensor, so the aim holds their fresh results against ours; `out=` is shown beside. Returns 1 if an aim is missed.
On a CUDA device, quantization of 1 GiB, by the Triton kernels with `out=` and fused by torch.compile into a fresh
tensor, is held against a copy there: the better has to reach the aim.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitq import BlockFormat, parse_format, quantize
from bitq.formats import Format
from bitq.numerics import paths

OF_COPY, OF_CLONE, TIMES_PEERS, OF_DEVICE_COPY = 0.8, 0.8, 15.0, 0.7
OTHERS_OF_CLONE = 0.5
OTHERS = ("mxint8", "mxfp8e4m3", "mxfp6e2m3", "mxfp4", "nvfp4", "amd-bfp16", "int8", "int8-tensor", "fp8e4m3", "bf16")


@dataclass(frozen=True)
class Case:
    """A tensor and how it is blocked."""

    name: str
    shape: tuple[int, ...]
    inner_dims: tuple[int, ...]
    exponent_bias: int | None


CASES = tuple(
    Case(name, shape, inner_dims, bias)
    for name, shape, inner_dims in (("activations", (64, 64, 56, 56), ()), ("weights", (512, 512, 3, 3), (2, 3)))
    for bias in (-5, None)
)
Peer = Callable[[Tensor], object]


def brevitas(block: int) -> Peer:
    """MXInt8 of brevitas, with this block, as it evaluates."""
    formats = importlib.import_module("brevitas.quant.experimental.mx_quant_ocp")
    layers = importlib.import_module("brevitas.nn")
    layer = layers.QuantIdentity(formats.MXInt8Act, group_size=block, group_dim=1, return_quant_tensor=False)
    return layer.eval()


def torchao(block: int) -> Peer:
    """MXFP8 of torchao, to the format and back."""
    kind = importlib.import_module("torchao.prototype.mx_formats.mx_tensor").MXTensor

    def run(x: Tensor) -> Tensor:
        return kind.to_mx(x, torch.float8_e4m3fn, block).dequantize(torch.float32)

    return run


def quark(block: int) -> Peer:
    """BFP16 of amd-quark; its block is 8 whatever one asks for."""
    kernel = importlib.import_module("quark.torch.kernel.hw_emulation.hw_emulation_interface")
    return lambda x: kernel.fake_quantize_bfp16(x, 1, block)


PEERS = {"brevitas": brevitas, "torchao": torchao, "amd-quark": quark}


def take_turns(candidates: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of runs of every candidate, in turns, for about `seconds` in all, 5 rounds at least.

    Each turn runs twice and counts once, so that nobody pays for what the one before left in the caches to be written.
    """
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, run in candidates.items():
            run()
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """Median seconds of every candidate."""
    return {name: statistics.median(runs) for name, runs in times.items()}


def available(folder: str | None) -> dict[str, Callable[[int], Peer]]:
    """Peers that run here; says of the others why not."""
    if folder is None:
        return {}
    sys.path.append(folder)
    found = {}
    for name, make in PEERS.items():
        try:
            make(16)(torch.randn(2, 64, 4, 64))
            found[name] = make
        except Exception as error:
            print(f"{name} does not run here: {type(error).__name__}: {str(error)[:100]}")
    return found


def beside_copies(case: Case, fmt: Format, x: Tensor, out: Tensor, seconds: float) -> tuple[str, float, float]:
    """What quantization takes beside copies, in words; its speed as parts of those of `copy_` and `clone`."""
    copy = torch.empty_like(x)
    arguments = {"dim": 1, "inner_dims": case.inner_dims, "exponent_bias": case.exponent_bias}
    given = take_turns({"copy": lambda: copy.copy_(x), "out": lambda: quantize(x, fmt, **arguments, out=out)}, seconds)
    fresh = take_turns({"clone": x.clone, "fresh": lambda: quantize(x, fmt, **arguments)}, seconds)
    ours = medians(given) | medians(fresh)
    of_copy, of_clone = ours["copy"] / ours["out"], ours["clone"] / ours["fresh"]
    quarter = statistics.quantiles(given["copy"])
    text = (
        f"{torch.get_num_threads()} threads: copy_ {ours['copy'] * 1e3:7.3f} ms "
        f"(quartiles {quarter[0] * 1e3:.3f}..{quarter[2] * 1e3:.3f}), "
        f"out= {ours['out'] * 1e3:7.3f} = {of_copy:.2f} of it (least {min(given['copy']) / min(given['out']):.2f}); "
        f"clone {ours['clone'] * 1e3:7.3f}, fresh {ours['fresh'] * 1e3:7.3f} = {of_clone:.2f} of it "
        f"(least {min(fresh['clone']) / min(fresh['fresh']):.2f})"
    )
    return text, of_copy, of_clone


def measure_other(case: Case, name: str, seconds: float) -> bool:
    """Prints the row of a format that is not `BITS:eSE:bBS`; whether its aim is met."""
    x = torch.randn(case.shape)
    text, _, of_clone = beside_copies(case, parse_format(name), x, torch.empty_like(x), seconds)
    met = of_clone >= OTHERS_OF_CLONE
    print(f"{case.name:11} {name:12}, {text}" + ("" if met else "  MISSED"), flush=True)
    return met


def measure(case: Case, block: int, peers: dict[str, Callable[[int], Peer]], seconds: float) -> bool:
    """Prints one row; whether the aims are met."""
    fmt = BlockFormat(8, 3, block)
    x = torch.randn(case.shape)
    out = torch.empty_like(x)
    arguments = {"dim": 1, "inner_dims": case.inner_dims, "exponent_bias": case.exponent_bias}
    text, of_copy, of_clone = beside_copies(case, fmt, x, out, seconds)
    text = f"{case.name:11} {'default' if case.exponent_bias is None else 'given'} bias, block {block}, {text}"
    met = of_copy >= OF_COPY and of_clone >= OF_CLONE
    if peers:
        theirs = {name: make(block) for name, make in peers.items()}
        last = x.movedim(1, -1).contiguous()
        candidates = {n: lambda n=n: theirs[n](last if n == "torchao" else x) for n in theirs}
        candidates["fresh"] = lambda: quantize(x, fmt, **arguments)
        candidates["out"] = lambda: quantize(x, fmt, **arguments, out=out)
        with torch.no_grad():
            their = medians(take_turns(candidates, seconds))
        fresh, into = their.pop("fresh"), their.pop("out")
        text += "; " + ", ".join(
            f"{name} {t * 1e3:.1f} ms = {t / fresh:.0f}x fresh, {t / into:.0f}x out=" for name, t in their.items()
        )
        met &= min(their.values()) / fresh >= TIMES_PEERS
    print(text + ("" if met else "  MISSED"), flush=True)
    return met


def small() -> None:
    """Prints what a call costs on a tensor of 64 x 64, with and without a gradient."""
    fmt = BlockFormat(8, 3, 16)
    x = torch.randn(64, 64)
    trained, out, grad = x.clone().requires_grad_(), torch.empty_like(x), torch.ones_like(x)

    def many(run: Callable[[], object]) -> Callable[[], object]:
        return lambda: [run() for _ in range(100)]

    candidates = {
        "clone": x.clone,
        "quantize": lambda: quantize(x, fmt, exponent_bias=-5),
        "quantize, default bias": lambda: quantize(x, fmt),
        "quantize into out": lambda: quantize(x, fmt, exponent_bias=-5, out=out),
        "x * 2 and backward": lambda: torch.autograd.grad(trained * 2, trained, grad),
        "quantize and backward": lambda: torch.autograd.grad(quantize(trained, fmt, exponent_bias=-5), trained, grad),
        "operator": lambda: torch.ops.bitq.quantize(x, "8:e3:b16", 1, [], -5, None, "nearest", None),
    }
    times = medians(take_turns({name: many(run) for name, run in candidates.items()}, 3))
    print("one call on 64x64: " + ", ".join(f"{name} {t * 1e4:.1f} µs" for name, t in times.items()))


def on_device() -> bool:
    """Prints quantization of 1 GiB on a CUDA device beside a copy; whether the aim is met."""
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured there")
        return True
    device, fmt, met = torch.device("cuda", torch.cuda.current_device()), BlockFormat(8, 3, 16), True
    print(f"{torch.cuda.get_device_name(device)}, Triton kernels: {'yes' if paths.gpu_kernels(device) else 'no'}")
    for dtype, layout, bias, rounding in (
        (torch.float32, torch.contiguous_format, -5, "nearest"),
        (torch.float32, torch.channels_last, -5, "nearest"),
        (torch.bfloat16, torch.contiguous_format, -5, "nearest"),
        (torch.bfloat16, torch.channels_last, -5, "nearest"),
        (torch.float32, torch.contiguous_format, None, "nearest"),  # reads twice
        (torch.float32, torch.contiguous_format, -5, "stochastic"),
    ):
        batch = 2**30 // (64 * 256 * 256 * dtype.itemsize)
        x = torch.randn(batch, 64, 256, 256, dtype=dtype, device=device).to(memory_format=layout)
        out = torch.empty_like(x)

        def eager(x: Tensor = x, out: Tensor = out, bias: int | None = bias, rounding: str = rounding) -> Tensor:
            return quantize(x, fmt, exponent_bias=bias, rounding=rounding, out=out)

        def plain(t: Tensor, bias: int | None = bias, rounding: str = rounding) -> Tensor:
            return quantize(t, fmt, exponent_bias=bias, rounding=rounding)

        torch.compiler.reset()
        fused = torch.compile(plain)
        candidates: dict[str, Callable[[], object]] = {"copy": lambda out=out, x=x: out.copy_(x)}
        candidates |= {"fused": lambda fused=fused, x=x: fused(x)} if rounding == "nearest" else {}
        candidates |= {"kernels" if paths.gpu_kernels(device) else "torch path": eager}
        times = medians(take_turns({name: finished(run) for name, run in candidates.items()}, 3))
        copy = times.pop("copy")
        best = min(times, key=times.__getitem__)
        met &= copy / times[best] >= OF_DEVICE_COPY or bias is None or rounding != "nearest"
        print(
            f"{str(dtype)[6:]:8} {str(layout)[6:]:17} bias {bias!s:4} {rounding:10} copy {copy * 1e3:.3f} ms, "
            + ", ".join(f"{name} {t * 1e3:.3f} ms = {copy / t:.2f} of it" for name, t in times.items())
            + f"; better: {best}",
            flush=True,
        )
    return met


def finished(run: Callable[[], object]) -> Callable[[], None]:
    """`run`, until the device has done it."""

    def wait() -> None:
        run()
        torch.cuda.synchronize()

    return wait


def main() -> int:
    """Measures and tells; 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", metavar="SITE_PACKAGES", help="folder that holds the other libraries")
    parser.add_argument("--cases", nargs="+", choices=sorted({case.name for case in CASES}), metavar="TENSORS")
    parser.add_argument("--blocks", type=int, nargs="*", default=[16, 32], help="of formats of 8 bits, 3 of exponent")
    parser.add_argument("--formats", nargs="*", default=OTHERS, metavar="FORMAT", help="others, none if none is named")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each comparison of a row")
    parser.add_argument("--small", action="store_true", help="one call on a small tensor, too")
    parser.add_argument("--device", choices=["cuda"], help="measure only there")
    arguments = parser.parse_args()
    if arguments.device:
        return 0 if on_device() else 1
    peers = available(arguments.peers)
    print(f"torch {torch.__version__}, peers: {', '.join(peers) or 'none'}")
    met = True
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for case in CASES:
            for block in arguments.blocks if not arguments.cases or case.name in arguments.cases else []:
                met &= measure(case, block, peers, arguments.seconds)
            for name in arguments.formats if not arguments.cases or case.name in arguments.cases else []:
                if case.exponent_bias is None:
                    met &= measure_other(case, name, arguments.seconds)
    if arguments.small:
        small()
    return 0 if met & on_device() else 1


if __name__ == "__main__":
    sys.exit(main())
