"""A small head that says whether a text fits a clip, over frozen embeddings of both."""

import torch
from torch import Tensor, nn

_FLOOR = 1e-6


class AlignmentHead(nn.Module):
    """Looks for each word of a text in the clip; the text fits when no word is refuted.

    Letters: B texts, T text tokens, S audio tokens, W width of the embeddings, D width of the head. Each text position
    has a weight g (does it claim a sound?) and an evidence e (its best match over time); the probability that the text
    fits is the product of ``1 - g (1 - sigmoid(e))`` over positions.
    """

    def __init__(self, width: int, hidden: int = 64, dropout: float = 0.1) -> None:
        """Make the head.

        Args:
            width: Width of the embeddings, W.
            hidden: Width of the head, D.
            dropout: Dropout on both embeddings.
        """
        super().__init__()
        self.settings = {"width": width, "hidden": hidden, "dropout": dropout}
        self.dropout = nn.Dropout(dropout)
        self.hear = nn.Sequential(nn.Conv1d(2 * width, hidden, 5, padding=2), nn.GELU(), nn.Conv1d(hidden, hidden, 1))
        self.read = nn.Conv1d(width, hidden, 3, padding=1)
        self.claim = nn.Conv1d(width, 1, 3, padding=1)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("audio_mean", torch.zeros(width))
        self.register_buffer("audio_std", torch.ones(width))
        self.register_buffer("text_std", torch.ones(()))
        self.register_buffer("temperature", torch.ones(()))
        self.audio_mean: Tensor
        self.audio_std: Tensor
        self.text_std: Tensor
        self.temperature: Tensor

    def forward(self, audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Return the logit of "fits" ``[B]``, before the temperature.

        Args:
            audio: Embeddings of the clips ``[B, S, W]``.
            audio_mask: True where there is sound ``[B, S]``.
            text: Embeddings of the texts ``[B, T, W]``.
            text_mask: True where there is text ``[B, T]``.
        """
        level = (audio - self.audio_mean) / self.audio_std * audio_mask[..., None]
        change = torch.zeros_like(level)
        change[:, 1:] = (level[:, 1:] - level[:, :-1]).abs()
        heard = torch.cat([level, change], -1).transpose(1, 2)
        keys = self.hear(self.dropout(heard))  # [B, D, S]
        words = self.dropout((text / self.text_std * text_mask[..., None]).transpose(1, 2))
        queries = self.read(words)  # [B, D, T]
        match = torch.einsum("bdt,bds->bts", queries, keys) / keys.shape[1] ** 0.5
        match = match.masked_fill(~audio_mask[:, None, :], float("-inf"))
        evidence = torch.logsumexp(match, -1) - audio_mask.sum(-1, keepdim=True).clamp(min=1).float().log()
        evidence = self.scale * evidence + self.bias
        weight = torch.sigmoid(self.claim(words)[:, 0]) * text_mask
        log_fits = torch.log1p(-(weight * torch.sigmoid(-evidence)).clamp(max=1 - _FLOOR)).sum(-1)
        log_fits = log_fits.clamp(max=-_FLOOR)
        return log_fits - torch.log(-torch.expm1(log_fits))

    def set_statistics(self, audio: Tensor, text: Tensor) -> None:
        """Take over mean and spread of the embeddings.

        Args:
            audio: Audio tokens of the training clips ``[N, W]``.
            text: Token embeddings ``[V, W]``.
        """
        self.audio_mean.copy_(audio.mean(0))
        self.audio_std.copy_(audio.std(0) + 1e-4)
        self.text_std.copy_(text.std() + 1e-6)
