"""Networks as users write them: each is searched, packed and loaded, or refused in one sentence."""

import copy
from dataclasses import dataclass
from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import bitq
import tiny
from bitq.batches import arguments, pair
from bitq.errors import BitqError
from bitq.nested import tensors
from bitq.progress import Silent


def batch():
    return torch.randn(4, 6), torch.randint(3, (4,))


def ragged():
    return ([torch.randn(2, 6), torch.randn(3, 6), torch.randn(5, 6), torch.randn(4, 6)],), torch.randint(3, (4,))


class Plain(nn.Module):
    """What the others differ from."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.first(x).relu())


class Dictionary(Plain):
    def forward(self, x):
        hidden = self.first(x)
        return {"hidden": hidden, "logits": self.last(hidden.relu())}


@dataclass
class Output:
    logits: torch.Tensor
    hidden: tuple
    name: str = "plain"


class Dataclass(Plain):
    def forward(self, x):
        hidden = self.first(x)
        return Output(self.last(hidden.relu()), (hidden,))


class InTraining(Plain):
    def forward(self, x, target=None):
        y = super().forward(x)
        return {"class": functional.cross_entropy(y, target), "size": y.square().mean()} if self.training else y


class Tied(Plain):
    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(6, 6, bias=False)
        self.middle.weight = self.first.weight

    def forward(self, x):
        return self.last(self.middle(self.first(x).relu()))


class Rows(nn.Module):
    """A linear layer that makes its copies anew, as those of libraries do that have lazy ones."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)

    def __deepcopy__(self, memo):
        memo[id(self)] = found = Rows(*self.weight.shape[::-1])
        found.weight = copy.deepcopy(self.weight, memo)
        return found

    def forward(self, x):
        return functional.linear(x, self.weight)


class Copying(Plain):
    def __init__(self):
        super().__init__()
        self.first = Rows(6, 6)


class Patched(Plain):
    """Given another `forward` after its class was made, with a product of two activations."""

    def __init__(self):
        super().__init__()
        self.forward = MethodType(Patched.patched, self)

    def patched(self, x):
        hidden = self.first(x).relu()
        return self.last(torch.einsum("ni,mi->nm", hidden, hidden) @ hidden)


class Keeping(Plain):
    """Keeps what it computed of the first input, as detectors keep the centres of their cells."""

    def __init__(self):
        super().__init__()
        self.kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.ones_like(x[:1]) + 1
        return self.last((self.first(x) * self.kept).relu())


class Remembering(Plain):
    """Keeps beside its state what it meets first, as torchvision's detectors keep the scales of their features."""

    met = None

    def forward(self, x):
        self.met = self.met or len(x)
        return super().forward(x / self.met)


class Decoding(Plain):
    def forward(self, x):
        y = super().forward(x)
        return y if self.training else y.argmax(-1)


class Detaching(Plain):
    def forward(self, x):
        y = super().forward(x)
        return y if self.training else y.detach()


class WeightFirst(Plain):
    """As Mamba computes with its weights."""

    def forward(self, x):
        y = self.first.weight @ x.mT
        return self.last((y + self.first.bias[:, None]).mT.relu())


class Compiled(Plain):
    """Whose code is compiled, but whose modules are not."""

    @torch.compile(backend="eager")
    def act(self, x):
        return self.first(x).relu()

    def forward(self, x):
        return self.last(self.act(x))


@dataclass
class Masked:
    x: torch.Tensor
    mask: torch.Tensor


class TakingADataclass(Plain):
    def forward(self, given):
        return super().forward(given.x * given.mask)


class Shared(Plain):
    def forward(self, x):
        return self.last(self.first(self.first(x).relu()).relu())


class Nested(Plain):
    def __init__(self):
        super().__init__()
        inner = nn.Sequential(self.first, nn.Sequential(nn.ReLU()))
        self.net = nn.Sequential(inner, nn.ModuleDict({"last": self.last})["last"])

    def forward(self, x):
        return self.net(x)


class Checkpointed(Plain):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        early = nn.Sequential(self.first, nn.ReLU())
        return self.last(checkpoint(early, x.requires_grad_(), use_reentrant=self.reentrant))


class InHalf(Plain):
    def forward(self, x):
        return super().forward(x.to(self.first.weight.dtype)).float()


class Attending(nn.Module):
    """Attention as functions compute it: over three tokens of two features."""

    def __init__(self, attend):
        super().__init__()
        self.qkv, self.last, self.attend = nn.Linear(2, 18), nn.Linear(6, 3), attend

    def forward(self, x):
        return self.last(self.attend(*self.qkv(x.unflatten(1, (3, 2))).chunk(3, -1)).mean(1))


def by_einsum(q, k, v):
    q, k, v = (each.unflatten(-1, (2, 3)) for each in (q, k, v))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)


def fused(q, k, v):
    return functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], is_causal=True)[:, 0]


class Scores(nn.Sequential):
    def forward(self, x):
        y = super().forward(x.unflatten(1, (3, 2)))
        return (y @ y.mT).sum(1)


class ByName(Plain):
    def forward(self, *, pixels, mask=None):
        return super().forward(pixels)


class Stacking(Plain):
    def forward(self, images):
        return super().forward(torch.stack([image.mean(0) for image in images]))


class Deciding(Plain):
    def forward(self, x):
        y = self.first(x)
        return self.last(y if y.mean() > 9 else y.relu())


class Holding(Plain):
    def __init__(self):
        super().__init__()
        self.first.network = self


class Walking(Plain):
    def forward(self, x):
        y = x
        for child in (child for child in self.children() if child is not self.last):
            y = child(y)
        return self.last((y[:, :, None] @ y[:, None]).sum(1))


class Ragged(Plain):
    def forward(self, images):
        return torch.stack([super(Ragged, self).forward(image.mean(0)) for image in images])


entropy = functional.cross_entropy
RIGHT = {  # network, batch, loss
    "outputs in a dictionary": (Dictionary, batch, lambda y, target: entropy(y["logits"], target)),
    "outputs in a dataclass": (Dataclass, batch, lambda y, target: entropy(y.logits, target)),
    "losses in training": (InTraining, lambda: (batch(), None), bitq.InTraining()),
    "tied weights": (Tied, batch, entropy),
    "a layer called twice": (Shared, batch, entropy),
    "nested": (Nested, batch, entropy),
    "bfloat16": (lambda: InHalf().bfloat16(), batch, entropy),
    "attention by einsum": (lambda: Attending(by_einsum), batch, entropy),
    "fused attention": (lambda: Attending(fused), batch, entropy),
    "a product of a Sequential": (lambda: Scores(nn.Linear(2, 6)), batch, entropy),
    "by name": (
        ByName,
        lambda: dict(zip(("pixels", "labels"), batch(), strict=True)),
        lambda y, target: entropy(y, target["labels"]),
    ),
    "a list of unlike size": (Stacking, lambda: (ragged()[0][0], batch()[1]), entropy),
    "deciding by values": (Deciding, batch, entropy),
    "keeping what it meets first": (Remembering, batch, entropy),
    "decoding in evaluation": (Decoding, batch, bitq.InTraining(entropy)),
    "a weight before what it multiplies": (WeightFirst, batch, entropy),
    "copying itself in its own way": (Copying, batch, entropy),
    "a forward of the instance": (Patched, batch, entropy),
    "keeping a tensor that it learns with": (Keeping, batch, entropy),
    "a compiled method": (Compiled, batch, entropy),
    "inputs in a dataclass": (TakingADataclass, lambda: (Masked(batch()[0], torch.ones(4, 6)), batch()[1]), entropy),
    "a loss of total and parts": (Plain, batch, lambda y, target: (entropy(y, target), {"size": y.square().mean()})),
}


def called(network, inputs):
    args, kwargs = arguments(network, pair(network, inputs)[0])
    return network(*args, **kwargs)


def run(network, data):
    for each in data:
        called(network, each)
    return 0.0


def searched(network, given, loss, folder):
    return bitq.search(
        network,
        [given],
        [given],
        device=tiny.DEVICE,
        run=folder,
        formats="8:e4:b16,8:e3:b16",
        loss=loss,
        metric=run,
        settings=bitq.Settings.quick(training=bitq.Training(steps=1)),
        listener=Silent(),
    )


@pytest.mark.parametrize("name", RIGHT)
def test_it_is_searched_packed_and_loaded(name, tmp_path):
    torch.manual_seed(0)
    make, given, loss = RIGHT[name]
    network, given = make(), given()
    before = dict(vars(network))
    result = searched(network, given, loss, tmp_path)
    assert vars(network) == before
    assert result.plan.stays_float == ()
    fresh = make()
    bitq.load_quantized(fresh, tmp_path)
    with torch.no_grad():
        first, second = (tensors(called(each.eval(), given)) for each in (fresh, result.model))
    assert first
    assert all(map(torch.equal, first, second))


REFUSED = {  # network, batch, what is said
    "checkpointed": (lambda: Checkpointed(False), batch, "anew in backward (torch.utils.checkpoint)"),
    "checkpointed by reentering": (lambda: Checkpointed(True), batch, "anew in backward (torch.utils.checkpoint)"),
    "compiled": (lambda: torch.compile(Plain(), backend="eager"), batch, "is wrapped by torch.compile, behind which"),
    "float16": (lambda: InHalf().half(), batch, "give the network as .float() or .bfloat16()"),
    "float64": (lambda: InHalf().double(), batch, "not torch.float64; convert with .float()"),
    "without values": (lambda: Plain().to("meta"), batch, "on the meta device, which have no values"),
    "a network among its own children": (Holding, batch, "is among its own children"),
    "a product of a module that runs its children": (Walking, batch, "runs all its children"),
    "one image after the other": (Ragged, ragged, "store as in the paper"),
    "decoding where the loss is asked": (Decoding, batch, "give it as bitq.InTraining(loss)"),
    "without a gradient in evaluation": (Detaching, batch, "has no gradient where formats are scored"),
    "sparse": (Plain, lambda: (batch()[0].to_sparse(), batch()[1]), "must be dense"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_sentence(name, tmp_path):
    torch.manual_seed(0)
    make, given, said = REFUSED[name]
    with pytest.raises(BitqError) as caught:
        searched(make(), given(), entropy, tmp_path)
    told = str(caught.value)
    assert said in told
    assert "\n" not in told
    assert len(told) < 400
