"""The parts of a student that hear and read, without its language model: a frozen encoder for small heads."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import cached_file

from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError, load_architecture, reason

Hears = Literal["encoder", "spectrum", "both"]

_FRAMES, _HOP = 64, 16
"""Mel frames of a window, and from one window to the next; both are whole audio tokens."""

_EMBEDDING = "embed_tokens"


class FrozenAudioEncoder(nn.Module):
    """A student's audio path and token embeddings; nothing else of the checkpoint is read."""

    def __init__(self, weights: str) -> None:
        """Load the parts.

        Args:
            weights: Hub name or directory of a student's checkpoint.

        Raises:
            WeightsError: Nothing is there, it is no student's, or weights are missing.
        """
        super().__init__()
        self.architecture, config = load_architecture(weights)
        text = self.architecture.text_config(config)
        self.mel_bins = self.architecture.mel_bins(config)
        self.audio_modules: Any = nn.ModuleDict(self.architecture.new_audio_modules(config))
        self.embedding = nn.Embedding(text.vocab_size, text.hidden_size)
        parts: dict[str, nn.Module] = {**dict(self.audio_modules.items()), _EMBEDDING: self.embedding}
        try:
            tensors = _tensors(weights, list(parts), self.architecture.ignored_prefixes)
        except Exception as error:  # a damaged file may raise anything
            raise WeightsError(f"no weights could be loaded from {weights!r}: {reason(weights, error)}") from error
        for part, module in parts.items():
            missing = set(module.state_dict()) - set(tensors.get(part, {}))
            if missing:
                raise WeightsError(
                    f"{weights!r} lacks {len(missing)} weights of the {part} ({sorted(missing)[0]}, ...)"
                )
            module.load_state_dict({name: tensors[part][name].float() for name in module.state_dict()})
        self.requires_grad_(False)
        self.eval()

    @property
    def text_width(self) -> int:
        """Width of the token embeddings."""
        return int(self.embedding.embedding_dim)

    def audio_width(self, hears: Hears) -> int:
        """Width of what :meth:`windows` returns."""
        spectrum = 3 * self.mel_bins
        return {"encoder": self.text_width, "spectrum": spectrum, "both": self.text_width + spectrum}[hears]

    def train(self, mode: bool = True) -> "FrozenAudioEncoder":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def hear(self, features: Tensor, feature_lengths: np.ndarray) -> list[Tensor]:
        """Return the audio tokens of each clip ``[tokens, width]``.

        Args:
            features: Log-mel features ``[K, M, F]``.
            feature_lengths: Heard frames ``[K]``.
        """
        tokens = self.architecture.front_end.num_tokens(feature_lengths).tolist()
        flat = self.architecture.encode_audio(self.audio_modules, features, feature_lengths)
        return list(flat.float().split(tokens))

    @torch.no_grad()
    def windows(self, features: Tensor, feature_lengths: np.ndarray, hears: Hears) -> list[Tensor]:
        """Return features of overlapping windows of each clip ``[windows, width]``, 0.64 s long and 0.16 s apart.

        Args:
            features: Log-mel features ``[K, M, F]``.
            feature_lengths: Heard frames ``[K]``.
            hears: The encoder's audio tokens (mean), the spectrum that it is given (mean, deviation and mean change of
                each mel band), or both.
        """
        parts: list[list[Tensor]] = []
        if hears in ("encoder", "both"):
            size, hop = (frames // self.architecture.front_end.frames_per_token for frames in (_FRAMES, _HOP))
            parts.append([_means(tokens, size, hop) for tokens in self.hear(features, feature_lengths)])
        if hears in ("spectrum", "both"):
            lengths = feature_lengths.tolist()
            parts.append([_rhythm(mel[:, :n].T.float()) for mel, n in zip(features, lengths, strict=True)])
        joined = []
        for pieces in zip(*parts, strict=True):
            shortest = min(len(piece) for piece in pieces)
            joined.append(torch.cat([piece[:shortest] for piece in pieces], -1))
        return joined


def _means(rows: Tensor, size: int, hop: int) -> Tensor:
    """Average overlapping windows of rows; fewer rows than a window has are one window."""
    size = min(size, len(rows))
    return torch.nn.functional.avg_pool1d(rows.T[None], size, hop)[0].T


def _rhythm(mel: Tensor) -> Tensor:
    mean = _means(mel, _FRAMES, _HOP)
    spread = (_means(mel.square(), _FRAMES, _HOP) - mean.square()).clamp(min=0).sqrt()
    change = torch.nn.functional.pad((mel[1:] - mel[:-1]).abs(), (0, 0, 0, 1))
    return torch.cat([mean, spread, _means(change, _FRAMES, _HOP)], -1)


def _tensors(weights: str, parts: list[str], ignored_prefixes: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """Read the tensors of the wanted parts, whatever is before their names."""
    found: dict[str, dict[str, Tensor]] = {}
    for file in _files(weights, parts):
        with safe_open(file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118  (not a dictionary)
                for part in parts:
                    if f"{part}." in name and not name.startswith(ignored_prefixes):
                        found.setdefault(part, {})[name.split(f"{part}.", 1)[1]] = content.get_tensor(name)
    return found


def _files(weights: str, parts: list[str]) -> list[str]:
    index = cached_file(weights, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    if index is None:
        file = cached_file(weights, "model.safetensors")
        return [str(file)]
    names: dict[str, str] = json.loads(Path(index).read_text())["weight_map"]
    wanted = {file for name, file in names.items() if any(f"{part}." in name for part in parts)}
    return [str(cached_file(weights, file)) for file in sorted(wanted)]
