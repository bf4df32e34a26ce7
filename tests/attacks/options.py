"""By the door of numeric options: values that are none, or that no memory and no patience has room for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from attacks import attack

DATA = "--data data.npz --run run"
RANGE = r"must be a number from"


@attack(f"search nets:make {DATA} --mean nan", f"mean is nan; it {RANGE}")
@attack(f"search nets:make {DATA} --mean 0,inf,0", f"mean is inf; it {RANGE}")
@attack(f"search nets:make {DATA} --mean=-1e38", f"mean is .*; it {RANGE}")
@attack(f"search nets:make {DATA} --std nan", f"std is nan; it {RANGE}")
@attack(f"search nets:make {DATA} --std 1e-38", f"std is 1e-38; it {RANGE}")
@attack(f"search nets:make {DATA} --std inf", f"std is inf; it {RANGE}")
@attack(f"search nets:make {DATA} --std=-1", f"std is -1.0; it {RANGE}")
@attack(f"search nets:make {DATA} --formats 8:e1..e999999999:b1", "names more than 1000 formats; name fewer")
@attack(f"search nets:make {DATA} --formats {'8:e3:b4,' * 13000}", "has at most 100000 characters")
@attack(f"search nets:make {DATA} --weights int2..int99999", "names more than 1000 formats; name fewer")
@attack(f"search nets:make {DATA} --activations s99999999999999:e3:b4", "element 's99999999999999' at character 1")
@attack(f"search nets:make {DATA} --formats l(1e999):f32:b4", "a table of levels has 2..256 of them")
@attack(f"search nets:make {DATA} --formats ,", "no format is named; name some, such as")
@attack(f"search nets:make {DATA} --alpha nan", "alpha is nan; it must be")
@attack(f"search nets:make {DATA} --alpha inf", "alpha is inf; it must be")
@attack(f"search nets:make {DATA} --alpha=-1e-300", "alpha is -1e-300; it must be")
@attack(f"search nets:make {DATA} --alpha 1e308", r"alpha is 1e\+308; it must be")
@attack(f"search nets:make {DATA} --learning-rate nan", "learning_rate is nan; it must be")
@attack(f"search nets:make {DATA} --learning-rate 1e38", r"learning_rate is 1e\+38; it must be .* up to 1e30")
@attack(f"search nets:make {DATA} --limit 0", "a limit of 0 inputs leaves none; it must be at least 1")
@attack(f"search nets:make {DATA} --limit=-9223372036854775809", "it must be at least 1")
@attack(f"search nets:make {DATA} --image-size 1000000000", "image size of 1000000000 .* from 1 to 4096")
@attack(f"search nets:make {DATA} --image-size 5000", "image size of 5000 .* from 1 to 4096")
@attack(f"search nets:make {DATA} --image-size 0", "image size of 0 .* from 1 to 4096")
@attack(f"search nets:make {DATA} --channels 2147483648", "1 channel .* or 3")
@attack(f"search nets:make {DATA} --batch-size {2**62}", "--batch-size must be a number of at most 1000000")
@attack(f"search nets:make {DATA} --steps {2**62}", "steps is .* up to 10000000")
@attack(f"search nets:make {DATA} --seed=-1", "seed is -1; it must be from 0")
@attack(f"search nets:make {DATA} --seed {2**63}", "seed is .*; it must be from 0")
@attack(f"search nets:make {DATA} --seed {'9' * 5000}", "--seed must be")
@attack(f"search nets:make {DATA} --rounds 1000000", "rounds is 1000000; it must be 1 or more, up to 1000")
@attack(f"search nets:make {DATA} --rounds {2**62}", "rounds is .* up to 1000")
@attack(f"search nets:make {DATA} --plans {2**62}", "plans is .* up to 100")
@attack(f"search nets:make {DATA} --uniforms {2**62}", "uniforms is .* up to 100")
@attack(f"search nets:make {DATA} --workers {2**62}", "--workers must be a number of at most 4096")
@attack(f"search nets:make {DATA} --max-accuracy-loss nan", "the limit of accuracy_loss is nan; it must be a finite")
@attack(f"search nets:make {DATA} --within nan", "--within is nan; it must be a number of points of accuracy from 0")
@attack(f"search nets:make {DATA} --within 1e300", r"--within is 1e\+300; it must be a number of points")
@attack(f"search nets:make {DATA} --max-movement {'9' * 50}%int8", "--max-movement is '9*.*; a share must be of int8")
@attack(f"search nets:make {DATA} --max-energy=-5%int8", "--max-energy is '-5%int8'; a share must be of int8")
@attack(f"search nets:make {DATA} --max-model-bytes 50%{'x' * 5000}", "--max-model-bytes is '50%x*.*; a share must")
@attack(f"search nets:make {DATA} --max-movement inf", "--max-movement is 'inf'; it must be a number")
@attack(f"search nets:make {DATA} --max-model-bytes=-1", "--max-model-bytes is '-1'; it must be a number")
@attack(f"search nets:make {DATA} --max-energy 1e999", "--max-energy is '1e999'; it must be a number")
@attack(f"compare nets:make {DATA} --seeds {'9' * 5000}", "--seeds is '9*.*; it must be whole numbers from 0")
@attack(f"compare nets:make {DATA} --seeds {','.join(map(str, range(200)))}", "give each seed once, and at most 100")
@attack(f"compare nets:make {DATA} --seeds=-1", "--seeds is '-1'; it must be whole numbers")
@attack(f"compare nets:make {DATA} --plans {2**62}", "--plans must be a number")
@attack(f"compare nets:make {DATA} --rules {'x' * 5000}", "rule 'x*.*' is unknown; rules are bitq")
@attack(f"compare nets:make {DATA} --rules bsfp:msfp={'9' * 5000}", "msfp of rule bsfp is '9*.*; it must be such as")
@attack(f"compare nets:make {DATA} --rules fast:alpha=inf", "alpha of rule fast is 'inf'; it must be such as 0.6")
@attack(f"compare nets:make {DATA} --rules flexblock:upper=nan+1e999", "upper of rule flexblock is .* such as 0.2")
@attack(f"compare nets:make {DATA} --within nan", "--within is nan; it must be a number of points")
@attack(f"compare nets:make {DATA} --steps {2**62}", "steps is .* up to 10000000")
def a_number_that_is_none(folder: Path) -> None:
    """Compute with numbers that are not finite, overflow, or ask for endless work."""
    (folder / "nets.py").write_text("raise RuntimeError('options are looked at before any network is')")
    np.savez(folder / "data.npz", x_train=np.ones((20, 6, 6), np.uint8))


@attack(f"compare nets:make {DATA}", "run/compare.html is no regular file")
def a_pipe_for_the_page(folder: Path) -> None:
    """Let all be compared, then wait for ever for a reader of the page."""
    (folder / "run").mkdir()
    os.mkfifo(folder / "run" / "compare.html")
    a_number_that_is_none(folder)


BIG = "search nets:make --data data.npz --run run --steps 1 --rounds 1 --uniforms 1"


@attack(f"{BIG} --plans 100", "", code=0)
@attack(f"{BIG} --plans 1 --alpha 1e12", "", code=0)
@attack(f"{BIG} --plans 1 --alpha 1e-300", "", code=0)
@attack(
    f"{BIG} --plans 1 --limit {2**63} --batch-size 1000000 --seed {2**63 - 1} --max-movement 999999999999999999e99",
    "",
    code=0,
)
@attack(f"{BIG} --plans 1 --mean 1e12 --std 1e-12", "'0' computes on training data is too large to score formats by")
@attack(f"{BIG} --plans 1 --steps 9 --learning-rate 1e30", "fine-tuning diverged")
def a_number_at_its_end(folder: Path) -> None:
    """Break what computes with the largest numbers that are allowed."""
    (folder / "nets.py").write_text(
        "from torch import nn\n\n\n"
        "def make():\n    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(48, 4))\n"
    )
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 6), np.uint8)
    labels = np.arange(20) % 4
    np.savez(folder / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
