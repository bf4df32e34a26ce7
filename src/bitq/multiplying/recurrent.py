"""Recurrent networks step by step, each as the linear layers of its inputs and of its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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


def _network(cell: RecurrentCell) -> Callable[..., Any]:
    """A function of torch that computes all layers and steps of padded sequences; of packed ones NotImplemented."""

    def run(
        input: Tensor,
        hx: Any,
        params: Sequence[Tensor],
        has_biases: Any = None,
        num_layers: int = 0,
        dropout: float = 0.0,
        train: bool = False,
        bidirectional: bool = False,
        batch_first: bool = False,
    ) -> Any:
        if not isinstance(has_biases, bool):  # the lengths of packed sequences stand second
            return NotImplemented
        states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        directions = 2 if bidirectional else 1
        own = len(params) // (num_layers * directions)
        x, last = input.transpose(0, 1) if batch_first else input, []
        for layer in range(num_layers):
            results = []
            for place in range(layer * directions, (layer + 1) * directions):
                weights = params[own * place : own * (place + 1)]
                state = tuple(each[place] for each in states)
                result, state = _direction(cell, x, weights, has_biases, state, backward=place % directions == 1)
                results.append(result)
                last.append(state)
            x = torch.cat(results, -1) if bidirectional else results[0]
            if dropout and train and layer + 1 < num_layers:
                x = functional.dropout(x, dropout)
        ends = [torch.stack(each) for each in zip(*last, strict=True)]
        return (x.transpose(0, 1) if batch_first else x, *ends)

    return run


def _direction(
    cell: RecurrentCell, x: Tensor, weights: Sequence[Tensor], has_biases: bool, state: State, backward: bool
) -> tuple[Tensor, State]:
    """One layer in one direction: the hidden states [steps, batch, features] and the last state."""
    of_input, of_hidden = weights[:2]
    bias_of_input, bias_of_hidden = weights[2:4] if has_biases else (None, None)
    projection = weights[-1] if len(weights) in (3, 5) else None  # of an LSTM's hidden state
    inputs, found = functional.linear(x, of_input, bias_of_input).unbind(0), []
    for step in reversed(inputs) if backward else inputs:
        state = cell(step, functional.linear(state[0], of_hidden, bias_of_hidden), state)
        if projection is not None:
            state = functional.linear(state[0], projection), *state[1:]
        found.append(state[0])
    return torch.stack(found[::-1] if backward else found), state


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
