"""Recurrent networks step by step, each as the linear layers of its inputs and of its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

State = tuple[Tensor, ...]
"""What a step hands on: the hidden state, and an LSTM's cell state."""

RecurrentCell = Callable[[Tensor, Tensor, State], State]
"""From what the linear layers make of the input and of the hidden state, and the state, to the next one."""


def _lstm(inputs: Tensor, hidden: Tensor, state: State) -> State:
    entering, forgetting, new, leaving = (inputs + hidden).chunk(4, -1)
    cell = torch.sigmoid(forgetting) * state[1] + torch.sigmoid(entering) * torch.tanh(new)
    return torch.sigmoid(leaving) * torch.tanh(cell), cell


def _gru(inputs: Tensor, hidden: Tensor, state: State) -> State:
    (reset, keep, new), (reset_by, keep_by, new_by) = inputs.chunk(3, -1), hidden.chunk(3, -1)
    kept = torch.sigmoid(keep + keep_by)
    made = torch.tanh(new + torch.sigmoid(reset + reset_by) * new_by)
    return (made + kept * (state[0] - made),)


def _tanh(inputs: Tensor, hidden: Tensor, state: State) -> State:
    return (torch.tanh(inputs + hidden),)


def _relu(inputs: Tensor, hidden: Tensor, state: State) -> State:
    return (torch.relu(inputs + hidden),)


def _cell(cell: RecurrentCell) -> Callable[..., Any]:
    """A function of torch that computes one step."""

    def step(
        input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
    ) -> Any:
        state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        found = cell(functional.linear(input, w_ih, b_ih), functional.linear(state[0], w_hh, b_hh), state)
        return found if len(found) > 1 else found[0]

    return step


class _Steps(NamedTuple):
    """How sequences lie in a tensor.

    Attributes:
        apart: from the tensor to [sequences, features] of each step. Packed sequences are sorted by length: each step
            has the first of them, those that last so long.
        together: the reverse.
    """

    apart: Callable[[Tensor], Sequence[Tensor]]
    together: Callable[[list[Tensor]], Tensor]


def _network(cell: RecurrentCell) -> Callable[..., Any]:
    """A function of torch that computes all layers and steps, of padded or of packed sequences."""

    def run(input: Tensor, *given: Any) -> Any:
        if not isinstance(given[2], bool):  # of packed sequences, how many last to each step stands second
            sizes, *rest = given
            return layers(_Steps(lambda x: torch.split(x, sizes.tolist()), torch.cat), input, *rest)
        *rest, batch_first = given
        padded = _Steps(lambda x: x.unbind(0), torch.stack)
        x, *ends = layers(padded, input.transpose(0, 1) if batch_first else input, *rest)
        return (x.transpose(0, 1) if batch_first else x, *ends)

    def layers(
        steps: _Steps,
        x: Tensor,
        hx: Any,
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
    ) -> Any:
        states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        directions = 2 if bidirectional else 1
        own, last = len(params) // (num_layers * directions), []
        for layer in range(num_layers):
            results = []
            for place in range(layer * directions, (layer + 1) * directions):
                weights = params[own * place : own * (place + 1)]
                state = tuple(each[place] for each in states)
                backward = place % directions == 1
                result, state = _direction(cell, steps, x, weights, has_biases, state, backward)
                results.append(result)
                last.append(state)
            x = torch.cat(results, -1) if bidirectional else results[0]
            if dropout and train and layer + 1 < num_layers:
                x = functional.dropout(x, dropout)
        return (x, *(torch.stack(each) for each in zip(*last, strict=True)))

    return run


def _direction(
    cell: RecurrentCell,
    steps: _Steps,
    x: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    state: State,
    backward: bool,
) -> tuple[Tensor, State]:
    """One layer in one direction: the hidden states of all steps, and each sequence's last state."""
    of_input, of_hidden = weights[:2]
    bias_of_input, bias_of_hidden = weights[2:4] if has_biases else (None, None)
    projection = weights[-1] if len(weights) in (3, 5) else None  # of an LSTM's hidden state
    inputs, found = steps.apart(functional.linear(x, of_input, bias_of_input)), []
    for step in reversed(inputs) if backward else inputs:
        count = len(step)
        now = tuple(each if len(each) == count else each[:count] for each in state)
        new = cell(step, functional.linear(now[0], of_hidden, bias_of_hidden), now)
        if projection is not None:
            new = functional.linear(new[0], projection), *new[1:]
        found.append(new[0])
        state = tuple(
            own if len(before) == count else torch.cat([own, before[count:]])
            for own, before in zip(new, state, strict=True)
        )
    return steps.together(found[::-1] if backward else found), state


RECURRENT: dict[Any, Callable[..., Any]] = {
    **{
        getattr(torch, name): _network(cell)
        for name, cell in (("lstm", _lstm), ("gru", _gru), ("rnn_tanh", _tanh), ("rnn_relu", _relu))
    },
    **{
        getattr(torch, f"{name}_cell"): _cell(cell)
        for name, cell in (("lstm", _lstm), ("gru", _gru), ("rnn_tanh", _tanh), ("rnn_relu", _relu))
    },
}
"""By function of torch, what computes the same."""
