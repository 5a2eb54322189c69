"""A small head that says whether a text fits a clip, over frozen embeddings of both."""

import torch
from torch import Tensor, nn

_FLOOR = 1e-6


class AlignmentHead(nn.Module):
    """Looks for each word of a text in the clip; the text fits when no word is refuted.

    Letters: B texts, T text tokens, S windows of sound, A width of the sound's features, W width of the text's
    embeddings. Each text token has a weight g (does it claim a sound?) and an evidence e (its match over all windows);
    the probability that the text fits is the product of ``1 - g (1 - sigmoid(e))`` over tokens. That much is built in,
    so that a few hundred verdicts suffice for the rest.
    """

    def __init__(self, audio_width: int, text_width: int, hidden: int = 64, dropout: float = 0.3) -> None:
        """Make the head.

        Args:
            audio_width: Width of the sound's features, A.
            text_width: Width of the text's embeddings, W.
            hidden: Width of the space in which both are compared.
            dropout: Dropout on the sound's features.
        """
        super().__init__()
        self.settings = {
            "audio_width": audio_width,
            "text_width": text_width,
            "hidden": hidden,
            "dropout": dropout,
        }
        self.dropout = nn.Dropout(dropout)
        self.hear = nn.Sequential(nn.LayerNorm(audio_width), nn.Linear(audio_width, hidden))
        self.read = nn.Linear(text_width, hidden)
        self.claim = nn.Linear(text_width, 1)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("audio_mean", torch.zeros(audio_width))
        self.register_buffer("audio_std", torch.ones(audio_width))
        self.register_buffer("text_std", torch.ones(()))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))
        self.audio_mean: Tensor
        self.audio_std: Tensor
        self.text_std: Tensor
        self.temperature: Tensor
        self.offset: Tensor

    def forward(self, audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Return the logit of "fits" ``[B]``, before calibration.

        Args:
            audio: Features of the clips' windows ``[B, S, A]``.
            audio_mask: True where there is sound ``[B, S]``.
            text: Embeddings of the texts ``[B, T, W]``.
            text_mask: True where there is text ``[B, T]``.
        """
        keys = self.hear(self.dropout((audio - self.audio_mean) / self.audio_std))
        words = text / self.text_std
        match = torch.einsum("btd,bsd->bts", self.read(words), keys) / keys.shape[-1] ** 0.5
        match = match.masked_fill(~audio_mask[:, None, :], float("-inf"))
        evidence = self.scale * torch.logsumexp(match, -1) + self.bias
        weight = torch.sigmoid(self.claim(words)[..., 0]) * text_mask
        log_fits = torch.log1p(-(weight * torch.sigmoid(-evidence)).clamp(max=1 - _FLOOR)).sum(-1)
        log_fits = log_fits.clamp(max=-_FLOOR)
        return log_fits - torch.log(-torch.expm1(log_fits))

    def probability(self, logits: Tensor) -> Tensor:
        """Return the calibrated probability that a text fits.

        Args:
            logits: What :meth:`forward` returned.
        """
        return torch.sigmoid(logits / self.temperature + self.offset)

    def set_statistics(self, audio: Tensor, text: Tensor) -> None:
        """Take over mean and spread of the embeddings.

        Args:
            audio: Windows of the training clips ``[N, A]``.
            text: Token embeddings ``[V, W]``.
        """
        self.audio_mean.copy_(audio.mean(0))
        self.audio_std.copy_(audio.std(0) + 1e-4)
        self.text_std.copy_(text.std() + 1e-6)

    def calibrate(self, temperature: float, offset: float) -> None:
        """Set by what :meth:`probability` scales and shifts logits.

        Args:
            temperature: Divides them.
            offset: Is added.
        """
        self.temperature.fill_(temperature)
        self.offset.fill_(offset)
