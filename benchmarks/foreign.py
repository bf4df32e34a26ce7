"""Networks that others wrote, as their packages have them: does all of bitq work on each?

    pip install --no-deps timm torchvision transformers torchaudio segmentation-models-pytorch diffusers ultralytics \
        torch_geometric huggingface_hub tokenizers regex tqdm httpx2 httpcore2 truststore xxhash \
        opencv-python-headless matplotlib contourpy cycler kiwisolver pyparsing python-dateutil requests psutil polars
    python benchmarks/foreign.py                                  # a row for each whose package is installed
    python benchmarks/foreign.py --networks vit swin --device eyeriss
    python benchmarks/foreign.py --traced                         # without searches

Rows that are right are kept in runs/foreign: a run that was stopped goes on from there. After a change of the code,
give --run another folder.

Each is a small variant with random weights, on a few random inputs. A row says:

- of: the package it is from;
- layers: how many tracing finds, and their multiply-accumulates, beside half of what PyTorch's own counter
  (`torch.utils.flop_counter`) counts in a run on data;
- float: the share of all bits moved that no format reaches;
- searched and loaded: whether `bitq.search` scores it, plans, fine-tunes one step, measures and packs, and a fresh
  network, filled by `bitq.load_quantized`, gives the very outputs of the search's;
- s: seconds for all of it, on one thread.

Then follows, for each network, what stays float and why, or what failed. Returns 1 if anything failed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import bitq
import torchvision_ops
from bitq.accuracy.kinds import staying_float
from bitq.accuracy.storing import with_products
from bitq.batches import arguments, one_example, pair
from bitq.floating import sentence
from bitq.nested import tensors
from bitq.progress import Silent
from bitq.tracing import record
from bitq.tradeoff.stored import Stored
from evaluation.rows import Rows

FORMATS = "8:e3:b16,8:e4:b16"


@dataclass(frozen=True)
class Subject:
    """A foreign network.

    Attributes:
        packages: it is made of.
        make: the network.
        batch: gives a batch of two inputs, as its users have it.
        loss: it is trained with.
        stored: what its layers store; "paper" where it goes on from layers in unlike ways in its two modes.
        example: what it is traced with, of a batch's input.
    """

    packages: tuple[str, ...]
    make: Callable[[], nn.Module]
    batch: Callable[[], Any]
    loss: bitq.Loss = torch.nn.functional.cross_entropy
    stored: Stored = "after-activation"
    example: Callable[[Any], Any] = one_example


@dataclass(frozen=True)
class Found:
    """A row of the table."""

    layers: int = 0
    macs: int = 0
    counted: float = 0
    staying: float = float("nan")
    loaded: bool = False
    seconds: float = 0
    notes: Sequence[str] = ()


def images(size: int, *, classes: int = 10, channels: int = 3) -> Callable[[], Any]:
    """Images with a class each."""
    return lambda: (torch.randn(2, channels, size, size), torch.randint(classes, (2,)))


def tokens(length: int = 12, vocabulary: int = 60) -> Callable[[], Any]:
    """A mapping as a tokenizer and a data collator for language models make it."""

    def made() -> dict[str, Tensor]:
        ids = torch.randint(vocabulary, (2, length))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    return made


def own_loss(output: Any, target: Any) -> Any:
    """The loss that a network of transformers computes itself, given labels."""
    return output.loss


def zero(model: nn.Module, batches: Any) -> float:
    """A metric for what has none."""
    for batch in batches:
        _called(model, batch)
    return 0.0


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of timm's with ten classes."""

    def made() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=10, **options)

    return made


def torchvision_model(path: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of torchvision's."""

    def made() -> nn.Module:
        import torchvision

        found: Any = torchvision.models
        for part in path.split("."):
            found = getattr(found, part)
        return found(**options)

    return made


def transformers_model(name: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of transformers'."""

    def made() -> nn.Module:
        import transformers

        return getattr(transformers, name)(getattr(transformers, config)(**options))

    return made


def detr() -> nn.Module:
    """DETR with a small ResNet."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    sizes = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in (
        ("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))}
    return DetrForObjectDetection(
        DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=backbone, d_model=32, num_queries=7,
                   num_labels=5, **sizes)
    )


def boxes() -> dict[str, Any]:
    """Images with the boxes of objects, as an image processor makes them."""
    labels = [{"class_labels": torch.tensor([1, 3]), "boxes": torch.rand(2, 4) * 0.3 + 0.3} for _ in range(2)]
    return {"pixel_values": torch.randn(2, 3, 64, 64), "labels": labels}


def mask_rcnn() -> nn.Module:
    """Mask R-CNN on a small ResNet with a feature pyramid, narrow and of few proposals."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.ops import FrozenBatchNorm2d

    body, width = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=FrozenBatchNorm2d), 32
    pyramid = BackboneWithFPN(body, {f"layer{each + 1}": str(each) for each in range(4)}, [64, 128, 256, 512], width)
    few = {f"rpn_{order}_nms_top_n_{mode}": 8 for order in ("pre", "post") for mode in ("train", "test")}
    return MaskRCNN(
        pyramid, min_size=32, max_size=48, box_detections_per_img=4, box_score_thresh=0.0,
        box_head=TwoMLPHead(width * 7 * 7, 64), box_predictor=FastRCNNPredictor(64, 4),
        mask_head=MaskRCNNHeads(width, (width, width), 1), mask_predictor=MaskRCNNPredictor(width, width, 4), **few,
    )


def detections() -> Any:
    """Images of unlike size with boxes and masks, as torchvision's detectors take them; they give the losses."""
    sizes = ((64, 80), (72, 64))
    targets = []
    for height, width in sizes:
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        masks[0, 5:30, 5:30] = masks[1, 20:50, 25:60] = 1
        found = torch.tensor([[5.0, 5, 30, 30], [25, 20, 60, 50]])
        targets.append({"boxes": found, "labels": torch.tensor([1, 2]), "masks": masks})
    return ([torch.rand(3, *size) for size in sizes], targets), None


def tacotron() -> nn.Module:
    """Tacotron 2: from letters to a spectrogram, by LSTMs over packed sequences and step by step."""
    from torchaudio.models import Tacotron2

    small = dict.fromkeys(
        ("symbol_embedding_dim", "encoder_embedding_dim", "attention_rnn_dim", "attention_hidden_dim",
         "decoder_rnn_dim", "prenet_dim", "postnet_embedding_dim"), 16,
    )
    return Tacotron2(n_mels=8, n_symbol=20, attention_location_n_filter=4, decoder_max_step=10, **small)


def spoken() -> Any:
    """Letters and the spectrograms of two sentences of unlike length."""
    spectrograms = torch.randn(2, 8, 5)
    given = (torch.randint(20, (2, 9)), torch.tensor([9, 6]), spectrograms, torch.tensor([5, 4]))
    return given, spectrograms


def spectrogram_loss(output: Any, target: Tensor) -> Tensor:
    """Mean squared error of the spectrogram before and after the last network."""
    return sum(((each - target) ** 2).mean() for each in output[:2])


def deep_speech() -> nn.Module:
    """Deep Speech: from spectrograms to letters, by a recurrent network of both directions."""
    from torchaudio.models import DeepSpeech

    return DeepSpeech(n_feature=8, n_hidden=16, n_class=6)


def wav2vec() -> nn.Module:
    """wav2vec 2.0: from samples of sound to letters, its weight norm taken off."""
    from torch.nn.utils.parametrize import remove_parametrizations
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    small = {"conv_dim": [16] * 3, "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 2], "num_conv_pos_embeddings": 16}
    found = Wav2Vec2ForCTC(
        Wav2Vec2Config(vocab_size=12, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                       num_conv_pos_embedding_groups=4, apply_spec_augment=False, **small)
    )
    remove_parametrizations(found.wav2vec2.encoder.pos_conv_embed.conv, "weight")
    return found


def clip() -> nn.Module:
    """CLIP: texts and images that belong together."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 60, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    seen = {"image_size": 32, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config={**small, **text}, vision_config={**small, **seen}, projection_dim=16))


def described_images() -> dict[str, Any]:
    """Images and texts."""
    ids = torch.randint(3, 60, (2, 8))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(2, 3, 32, 32),
            "return_loss": True}


def sam() -> nn.Module:
    """SAM: the masks of what points are on."""
    from transformers import SamConfig, SamModel

    seen = {"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64,
            "image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 8}
    asked = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    drawn = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "iou_head_hidden_dim": 16}
    return SamModel(SamConfig(vision_config=seen, prompt_encoder_config=asked, mask_decoder_config=drawn))


def pointed_at() -> Any:
    """Images with two points each, and masks."""
    given = {"pixel_values": torch.randn(2, 3, 64, 64), "input_points": torch.rand(2, 1, 2, 2) * 64}
    return given, torch.rand(2, 1, 3, 32, 32)


def diffusion() -> nn.Module:
    """The U-Net of Stable Diffusion."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=8,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def noise() -> Any:
    """Latents at two moments of diffusion, with the states of a text."""
    given = {"sample": torch.randn(2, 4, 16, 16), "timestep": torch.tensor([3, 70]),
             "encoder_hidden_states": torch.randn(2, 5, 24)}
    return given, torch.randn(2, 4, 16, 16)


def graph_network() -> nn.Module:
    """A graph network with a convolution, attention and pooling."""
    from torch_geometric.nn import GATConv, GCNConv, Sequential, global_mean_pool

    return Sequential("x, edge_index, batch", [
        (GCNConv(8, 16), "x, edge_index -> x"), nn.ReLU(inplace=True),
        (GATConv(16, 8, heads=2), "x, edge_index -> x"), nn.ReLU(inplace=True),
        (global_mean_pool, "x, batch -> x"), nn.Linear(16, 3),
    ])


def graphs() -> Any:
    """Two graphs of five nodes as one."""
    given = torch.randn(10, 8), torch.randint(5, (2, 30)) + torch.tensor([0, 5]).repeat(15), torch.arange(10) // 5
    return given, torch.tensor([0, 2])


def yolo() -> nn.Module:
    """YOLOv8n."""
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel("yolov8n.yaml", nc=3, verbose=False)


def raw_loss(output: Any, target: Any) -> Tensor:
    """A mean square of all that a network gives, where its own loss needs more than tensors."""
    return torch.stack([each.square().mean() for each in tensors(output)]).sum()


SUBJECTS: Mapping[str, Subject] = {
    "vit": Subject(("timm",), timm_model("vit_tiny_patch16_224", img_size=48), images(48)),
    "beit": Subject(("timm",), timm_model("beit_base_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=3),
                    images(32)),
    "swin": Subject(
        ("torchvision",),
        torchvision_model("swin_transformer.SwinTransformer", patch_size=[4, 4], embed_dim=24, depths=[2, 2, 2],
                          num_heads=[2, 4, 8], window_size=[4, 4], num_classes=10),
        images(48),
    ),
    "convnext": Subject(("timm",), timm_model("convnext_atto"), images(32)),
    "efficientnet": Subject(("torchvision",), torchvision_model("efficientnet_b0", num_classes=10), images(32)),
    "regnet": Subject(("torchvision",), torchvision_model("regnet_y_400mf", num_classes=10), images(32)),
    "mobilevit": Subject(("timm",), timm_model("mobilevit_xxs"), images(64)),
    "detr": Subject(("transformers", "torchvision", "scipy"), detr, boxes, own_loss),
    "mask-rcnn": Subject(("torchvision",), mask_rcnn, detections, bitq.InTraining(), "paper"),
    "bert": Subject(
        ("transformers", "torchvision"),
        transformers_model("BertForMaskedLM", "BertConfig", vocab_size=60, hidden_size=32, num_hidden_layers=2,
                           num_attention_heads=4, intermediate_size=64),
        tokens(), own_loss,
    ),
    "gpt": Subject(
        ("transformers", "torchvision"),
        transformers_model("GPT2LMHeadModel", "GPT2Config", vocab_size=60, n_embd=32, n_layer=2, n_head=4,
                           n_positions=64, bos_token_id=0, eos_token_id=0),
        tokens(), own_loss,
    ),
    "llama": Subject(
        ("transformers", "torchvision"),
        transformers_model("LlamaForCausalLM", "LlamaConfig", vocab_size=60, hidden_size=32, intermediate_size=64,
                           num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                           max_position_embeddings=64),
        tokens(), own_loss,
    ),
    "t5": Subject(
        ("transformers", "torchvision"),
        transformers_model("T5ForConditionalGeneration", "T5Config", vocab_size=60, d_model=32, d_kv=8, d_ff=64,
                           num_layers=2, num_heads=4, decoder_start_token_id=0),
        tokens(), own_loss,
    ),
    "tacotron": Subject(("torchaudio",), tacotron, spoken, spectrogram_loss),
    "deep-speech": Subject(
        ("torchaudio",), deep_speech, lambda: (torch.randn(2, 1, 7, 8), torch.randint(7, (2, 6))),
    ),
    "unet": Subject(
        ("segmentation_models_pytorch", "timm"),
        lambda: __import__("segmentation_models_pytorch").Unet("resnet18", encoder_weights=None, classes=4),
        lambda: (torch.randn(2, 3, 32, 32), torch.randint(4, (2, 32, 32))),
    ),
    "video": Subject(
        ("torchvision",), torchvision_model("video.r3d_18", num_classes=10),
        lambda: (torch.randn(2, 3, 4, 16, 16), torch.randint(10, (2,))),
    ),
    "mamba": Subject(
        ("transformers", "torchvision"),
        transformers_model("MambaForCausalLM", "MambaConfig", vocab_size=60, hidden_size=32, state_size=4,
                           num_hidden_layers=2),
        tokens(), own_loss,
    ),
    "rwkv": Subject(
        ("transformers", "torchvision"),
        transformers_model("RwkvForCausalLM", "RwkvConfig", vocab_size=60, hidden_size=32, attention_hidden_size=32,
                           num_hidden_layers=2, use_cache=False),
        tokens(), own_loss,
    ),
    "mixtral": Subject(
        ("transformers", "torchvision"),
        transformers_model("MixtralForCausalLM", "MixtralConfig", vocab_size=60, hidden_size=32, head_dim=8,
                           intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                           num_local_experts=4, experts_implementation="eager"),
        tokens(), own_loss,
    ),
    "whisper": Subject(
        ("transformers", "torchvision"),
        transformers_model(
            "WhisperForConditionalGeneration", "WhisperConfig", vocab_size=60, d_model=32, num_mel_bins=8,
            encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=20, max_target_positions=16, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None,
            begin_suppress_tokens=None,
        ),
        lambda: {"input_features": torch.randn(2, 8, 40), "labels": torch.randint(3, 60, (2, 7))}, own_loss,
    ),
    "wav2vec": Subject(
        ("transformers", "torchvision"), wav2vec,
        lambda: {"input_values": torch.randn(2, 800), "labels": torch.randint(1, 12, (2, 5))}, own_loss,
    ),
    "clip": Subject(("transformers", "torchvision"), clip, described_images, own_loss),
    "sam": Subject(
        ("transformers", "torchvision"), sam, pointed_at, lambda output, target: (output.pred_masks - target).square(
        ).mean(),
    ),
    "diffusion": Subject(
        ("diffusers",), diffusion, noise, lambda output, target: (output.sample - target).square().mean(),
    ),
    "graph": Subject(("torch_geometric",), graph_network, graphs, example=lambda inputs: inputs),
    "yolo": Subject(("ultralytics",), yolo, lambda: (torch.rand(2, 3, 64, 64), torch.zeros(2)), raw_loss),
}


def main() -> int:
    """Print the table; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", choices=SUBJECTS, nargs="+", default=list(SUBJECTS))
    parser.add_argument("--device", default="stm32h743", help="(default: stm32h743)")
    parser.add_argument("--run", type=Path, default=Path("runs/foreign"), help="keeps rows (default: runs/foreign)")
    parser.add_argument("--traced", action="store_true", help="only trace and count: a minute for all of them")
    options = parser.parse_args()
    if find_spec("torchvision") is not None:
        torchvision_ops.install()
    if (spec := find_spec("torchaudio")) is not None:
        sys.modules["torchaudio"] = module_from_spec(spec)  # without compiled operators, which fit one PyTorch alone
    print("| network | of | layers | MACs | counted | float | searched and loaded | s |", "|" + 8 * " --- |", sep="\n")
    kept, rows = Rows(options.run), {}
    for name in options.networks:
        subject = SUBJECTS[name]
        if missing := [package for package in subject.packages if find_spec(package) is None]:
            print(f"| {name} | left out: {' and '.join(missing)} not installed |")
            continue
        made_of = subject.packages[0]
        of = {package: version(package) for package in ("torch", made_of)}
        config = {"network": name, "device": None if options.traced else options.device, "formats": FORMATS, **of}
        row = rows[name] = Found(**known) if (known := kept.known(config)) else tried(subject, config["device"])
        if right(row, options.traced):
            kept.once(config, lambda row=row: dataclasses.asdict(row))
        counts = f"{row.layers} | {row.macs:,} | {row.counted:,.0f} | {100 * row.staying:.2f} %"
        loaded = "" if options.traced else "yes" if row.loaded else "NO"
        print(f"| {name} | {made_of} {of[made_of]} | {counts} | {loaded} | {row.seconds:.0f} |", flush=True)
    for name, row in rows.items():
        print("", name, *(f"  {note}" for note in row.notes or ("all of it takes formats",)), sep="\n")
    return 0 if all(right(row, options.traced) for row in rows.values()) else 1


def right(row: Found, traced: bool) -> bool:
    """Whether nothing failed."""
    return 0 < row.macs == row.counted and (row.loaded or traced)


def tried(subject: Subject, device: str | None) -> Found:
    """All that a row says, or without a device what tracing says; what fails ends it, and is its last note."""
    torch.manual_seed(0)
    found, start = Found(), time.perf_counter()
    try:
        model, batch = subject.make().eval(), subject.batch()
        inputs, _ = pair(model, batch)
        example = subject.example(inputs)
        traced = record(model, example)
        macs = sum(layer.macs for layer in traced.layers)
        notes = tuple(map(sentence, staying_float(with_products(model, traced.products), traced.layers)))
        found = dataclasses.replace(found, layers=len(traced.layers), macs=macs, notes=notes)
        found = dataclasses.replace(found, counted=counted(model, example))
        if device is None:
            return found
        with tempfile.TemporaryDirectory() as run:
            result = bitq.search(
                model, [batch], [batch], device=device, run=run, formats=FORMATS, loss=subject.loss, metric=zero,
                settings=bitq.Settings.quick(training=bitq.Training(steps=1), scored_inputs=2, screened_inputs=2,
                                             stored=subject.stored),
                example_input=example, listener=Silent(),
            )
            staying = sum(part.movement_share for part in result.plan.stays_float or ())
            found = dataclasses.replace(found, staying=staying)
            fresh = subject.make()
            bitq.load_quantized(fresh, Path(run))
            loaded = alike(outputs(fresh, batch), outputs(result.model, batch))
            return dataclasses.replace(found, loaded=loaded, seconds=time.perf_counter() - start)
    except Exception as error:
        return dataclasses.replace(found, notes=(*found.notes, f"FAILED: {type(error).__name__}: {error}"))


def counted(model: nn.Module, example: Any) -> float:
    """Multiply-accumulates of a run on data, by PyTorch's counter."""
    model = copy.deepcopy(model).requires_grad_(False)  # the counter hooks gradients, and fails on some
    with unfused(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        args, kwargs = arguments(model, example)
        model(*args, **kwargs)
    return counter.get_total_flops() / 2


@contextmanager
def unfused() -> Any:
    """Inside, attention and recurrent networks compute by products that the counter knows."""
    fast, torch.backends.mkldnn.enabled = torch.backends.mha.get_fastpath_enabled(), False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mkldnn.enabled = True
        torch.backends.mha.set_fastpath_enabled(fast)


def outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    """All tensors that a network gives for a batch."""
    torch.manual_seed(0)  # Tacotron 2 drops out in evaluation, too
    with torch.no_grad():
        return tensors(_called(model.eval(), batch))


def alike(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether both are the same tensors."""
    return len(first) == len(second) and all(map(torch.equal, first, second))


def _called(model: nn.Module, batch: Any) -> Any:
    inputs, _ = pair(model, batch)
    args, kwargs = arguments(model, inputs)
    return model(*args, **kwargs)


if __name__ == "__main__":
    raise SystemExit(main())
