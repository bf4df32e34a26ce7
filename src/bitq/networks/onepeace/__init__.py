"""ONE-PEACE (Wang et al., "ONE-PEACE: Exploring One General Representation Model Toward Unlimited Modalities", 2023).

The vision branch: 40 layers of 1536 channels and 24 heads, whose perceptrons are gated (GeGLU) and 6144 wide (Table 1);
as classifier of images, for objects of COCO and for classes of pixels of ADE20K. Of the last two the paper tells which
decoders they have; sizes are those of the configurations that its authors published (github.com/OFA-Sys/ONE-PEACE).
Their trunks have the keys of the published checkpoints, their decoders names of our own. Nobody tells parameters or
operations of the whole; docs/networks.md compares the parts.
"""

from __future__ import annotations

from torch import nn

from bitq.networks.onepeace.adapted import AdaptedTrunk
from bitq.networks.onepeace.cascade import Cascade
from bitq.networks.onepeace.classifier import OnePeace
from bitq.networks.onepeace.segments import MaskedSegmenter
from bitq.networks.onepeace.trunk import PUBLISHED
from bitq.networks.onepeace.windowed import SimplePyramid, WindowedTrunk


def onepeace() -> nn.Module:
    """A fresh image classifier: 1,516,109,128 parameters, 397.5 billion multiply-accumulates per image of 256x256.

    Its adapter has 3.4 million parameters, its attention 378 million, its perceptrons 1.13 billion, as in the paper
    (Table 1).
    """
    return OnePeace()


def onepeace_detection() -> nn.Module:
    """A fresh ONE-PEACE for objects and their masks: 1,588,104,254 parameters, of which the trunk has 1.52 billion.

    11.94 trillion multiply-accumulates per image of 1280x1280, a thousand regions and a hundred objects. The pyramid
    and the heads are those of ViTDet (Li et al., "Exploring Plain Vision Transformer Backbones", 2022). Three things
    differ from the published code: queries meet the vectors of all distances, not of those that occur (0.2 % of the
    operations); a region is read at 2x2 places of each part, whatever its size; objects are chosen among the thousand
    likeliest candidates.
    """
    trunk = WindowedTrunk(PUBLISHED, side=80, window=16)
    return Cascade(SimplePyramid(trunk, PUBLISHED.width, 256))


def onepeace_semantic() -> nn.Module:
    """A fresh ONE-PEACE for classes of pixels: 1,822,911,511 parameters, of which the trunk has 1.53 billion.

    8.56 trillion multiply-accumulates per crop of 896x896. The adapter is ViT-Adapter's, the decoder Mask2Former's.
    The classes of segments are told by the last layer alone, where the published code tells them of each.
    """
    return MaskedSegmenter(AdaptedTrunk(PUBLISHED, side=56, prior=64))
