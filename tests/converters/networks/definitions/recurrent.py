"""Sequence classifiers with LSTM (Hochreiter 1997) and GRU (Cho et al. 2014) layers."""

from __future__ import annotations

import torch
from torch import nn


class Recurrent(nn.Module):
    """One or more recurrent layers, then a decision from all steps or from the final state.

    Args:
        kind: `nn.LSTM` or `nn.GRU`.
        features: Size of one step.
        hidden: Size of the state.
        layers: How many.
        bidirectional: Read in both directions.
        final_state: Decide by the final state instead of the mean over the steps.
        classes: How many scores.
    """

    def __init__(
        self,
        kind: type[nn.LSTM | nn.GRU],
        *,
        features: int,
        hidden: int = 16,
        layers: int = 1,
        bidirectional: bool = False,
        final_state: bool = False,
        classes: int = 6,
    ) -> None:
        super().__init__()
        self.final_state = final_state
        self.cell = kind(features, hidden, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(hidden * (2 if bidirectional and not final_state else 1), classes)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        steps, state = self.cell(sequence)
        if self.final_state:
            last = state[0] if isinstance(state, tuple) else state
            return self.head(last[-1])
        return self.head(steps.mean(dim=1))
