"""A bank of coupled oscillators that activations drive along tokens, read out by its synchrony."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.nn.cards import CardModule, drawn, last_token, real_tokens, require, seeded
from resonance_lens.nn.kuramoto import pull
from resonance_lens.nn.tuning import Rhythm, discriminant, require_classes, rhythms

Update = Literal["kuramoto", "akorn"]

START_STRENGTH = 0.1
"""Radians per token that a full drive turns an oscillator by, at the start."""

START_COUPLING = 0.1
"""Radians per token that all others together turn an oscillator by at most, at the start."""


@dataclass(frozen=True, eq=False)
class Synchrony:
    """What a bank did along tokens. Everything is zero beyond the length of a record.

    Attributes
    ----------
    phases
        ``[batch, token, oscillator, plane]`` in radians, in (-pi, pi].
    coherence
        ``[batch, token, oscillator]`` in [0, 1]: how constant the drive's phase is against the oscillator's,
        over about the last ``window`` tokens. 1 at the first token, where there is nothing to vary.
    order
        ``[batch, token]`` in [0, 1]: Kuramoto's order parameter, the length of the mean state.
    rates
        ``[batch, oscillator, plane]``: mean advance of the phase in cycles per token, in (-0.5, 0.5]; under a
        drive that it has locked to, the drive's frequency. Zero for a record of one token.
    """

    phases: Tensor
    coherence: Tensor
    order: Tensor
    rates: Tensor

    @property
    def features(self) -> Tensor:
        """Coherences, then the order parameter: ``[batch, token, oscillator + 1]``. What is read out."""
        return torch.cat([self.coherence, self.order[..., None]], dim=-1)


class OscillatorBank(CardModule):
    """Logits from how oscillators synchronise with what drives them, and with each other, along tokens.

    Parameters
    ----------
    in_features
        Features; standardise them: a drive saturates when its weighted sum is well above 1.
    n_oscillators
        Oscillators.
    n_outputs
        Logits at each token.
    update
        ``kuramoto``: phases. ``akorn``: vectors on a sphere (Miyato et al. 2024).
    dimension
        Of the sphere's space for ``akorn``, even, 2 or more: each pair of axes is a plane with a frequency of
        its own. 2 for ``kuramoto``.
    fmin, fmax
        Natural frequencies at the start, in cycles per token, evenly from one to the other:
        ``0 < fmin < fmax < 0.5``; where `tune` looks. They are learned, and stay between 0 and 0.5.
    window
        Time constant in tokens of the averages that are read out, above 0: ``exp(-lag / window)``. A
        resonance is about ``1 / (pi window)`` cycles per token wide.
    seed
        Of the start.

    Raises
    ------
    ParameterError
        If a number is out of range.

    Notes
    -----
    At each token an oscillator turns by its natural frequency, and is then pulled by its field, the drive
    ``c_i(t)`` plus ``sum_j J_ij x_j``: ``kuramoto`` turns its phase by ``abs(F) sin(arg F -
    theta)``; ``akorn`` does ``x <- normalise(x + F - <F, x> x)``. A drive is ``strength_i w_i x(t) / sqrt(1 +
    abs(w_i x(t))^2)``, so that no activation, however large, turns a phase by more than its strength. Turning
    is exact at every frequency; as one sum with the pull, as published, a frequency of 0.25 would turn a
    state by atan(pi / 2), 57 degrees and not 90, and planes of a high frequency would outgrow the others. The
    axes of a sphere are chosen so that Omega is a turn in each plane, which costs no generality: drives and
    couplings are full matrices.

    Causal: what stands at a token depends on no later one. The coherence is
    ``abs(M[c . conj x]) / sqrt(M[abs(c)^2])``, with M the average over the past and c the drive before its
    strength.

    References
    ----------
    Miyato, Löwe, Geiger, Welling (2024), "Artificial Kuramoto oscillatory neurons", arXiv 2410.13821.
    Kuramoto (1975), "Self-entrainment of a population of coupled non-linear oscillators".
    """

    start: Tensor

    def __init__(
        self, in_features: int, n_oscillators: int, n_outputs: int, *, update: Update = "kuramoto",
        dimension: int = 2, fmin: float = 1 / 64, fmax: float = 0.45, window: float = 16.0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        require("OscillatorBank", "in_features", in_features)
        require("OscillatorBank", "n_oscillators", n_oscillators)
        require("OscillatorBank", "n_outputs", n_outputs)
        if update not in ("kuramoto", "akorn"):
            raise ParameterError(
                wrong_parameter("OscillatorBank", "update", "one of 'kuramoto', 'akorn'", update)
            )
        if dimension < 2 or dimension % 2 or (update == "kuramoto" and dimension != 2):
            raise ParameterError(
                wrong_parameter("OscillatorBank", "dimension", "even, and 2 for 'kuramoto'", dimension)
            )
        if not 0 < fmin < fmax < 0.5:
            raise ParameterError(
                f"An OscillatorBank needs 0 < fmin < fmax < 0.5 cycles per token; got {fmin!r} and {fmax!r}."
            )
        if not window > 0:
            raise ParameterError(wrong_parameter("OscillatorBank", "window", "above 0 tokens", window))
        self.in_features, self.n_oscillators, self.n_outputs = in_features, n_oscillators, n_outputs
        self.update, self.dimension, self.window, self.seed = update, dimension, window, seed
        self.fmin, self.fmax = fmin, fmax
        self.n_planes = dimension // 2
        generator, n = seeded(seed), n_oscillators
        grid = torch.linspace(fmin, fmax, n * self.n_planes)
        # Planes of one oscillator lie far apart, so that each oscillator covers the range.
        start = torch.logit(2 * grid).reshape(self.n_planes, n).T.contiguous()
        self.register_buffer("start", start, persistent=False)
        # One unit is about a resonance's width: an optimiser's step is small against it at any frequency.
        self.frequency_shift = nn.Parameter(torch.zeros(n, self.n_planes))
        # Weighted sums of standardised features have a variance of one.
        self.drive = drawn((n, dimension, in_features), math.sqrt(3 / in_features), generator)
        self.strength = nn.Parameter(torch.full((n,), START_STRENGTH))
        shape = (n, n) if update == "kuramoto" else (n * dimension, n * dimension)
        self.coupling = drawn(shape, START_COUPLING / n, generator)
        self.weight = drawn((n_outputs, n + 1), 1 / math.sqrt(n + 1), generator)
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    @property
    def frequencies(self) -> Tensor:
        """Natural frequencies ``[oscillator, plane]`` in cycles per token, between 0 and 0.5."""
        return 0.5 * torch.sigmoid(self.start + self.frequency_shift / self.window)

    @property
    def couplings(self) -> Tensor:
        """What an oscillator receives from another, ``[to, from]``, in radians per token.

        For ``akorn``, where each is a matrix, its root mean square gain, at least 0.
        """
        if self.update == "kuramoto":
            return self.coupling
        n, d = self.n_oscillators, self.dimension
        return self.coupling.reshape(n, d, n, d).square().sum((1, 3)).div(d).sqrt()

    @property
    def importance(self) -> Tensor:
        """How much the outputs hang on each oscillator's coherence: root mean square weight ``[oscillator]``.

        The mean over outputs is taken out first: a softmax does not see it. With one output it is not.
        """
        weight = self.weight[:, : self.n_oscillators]
        centred = weight - weight.mean(0, keepdim=True) if self.n_outputs > 1 else weight
        return centred.square().mean(0).sqrt()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits ``[batch, token, n_outputs]``; parameters as of `synchrony`. Zero beyond a record."""
        features = self.synchrony(x, lengths).features.to(self.weight.dtype)
        logits = functional.linear(features, self.weight, self.bias)
        return torch.where(real_tokens(x, lengths), logits, 0.0).to(x.dtype)

    def synchrony(self, x: Tensor, lengths: Tensor | None = None) -> Synchrony:
        """Return what the bank does under a drive.

        Parameters
        ----------
        x
            Features ``[batch, token, in_features]``.
        lengths
            Real tokens of each record, integers ``[batch]``; what lies beyond is not looked at. All of them
            if not said.
        """
        real = real_tokens(x, lengths)
        drive = self._drive(torch.where(real, x, 0.0))
        states = self._states(drive)
        phase_locked = (drive * states.conj()).sum(-1)  # [batch, token, oscillator]
        past = _recent(drive.shape[1], self.window, drive.real)
        power = past @ (drive.abs().square()).sum(-1)
        mean = past.to(phase_locked.dtype) @ phase_locked
        tiny = torch.finfo(power.dtype).tiny
        square = (mean.real.square() + mean.imag.square()) / power.clamp_min(tiny)
        coherence = square.clamp_min(tiny).sqrt()
        order = states.mean(2).abs().square().sum(-1).clamp_min(tiny).sqrt()  # [batch, token]
        advance = states[:, 1:] * states[:, :-1].conj() * real[:, 1:, :, None]
        return Synchrony(
            phases=torch.where(real[..., None], states.angle(), 0.0),
            coherence=torch.where(real, coherence, 0.0),
            order=torch.where(real[..., 0], order, 0.0),
            rates=advance.sum(1).angle() / (2 * math.pi),
        )

    @torch.no_grad()
    def tune(
        self, x: Tensor, labels: Tensor, lengths: Tensor | None = None, *, every_token: bool = False
    ) -> tuple[Rhythm, ...]:
        """Set frequencies, drives and read-out from labelled records. Give it training records only.

        A gradient does not find a rhythm: its landscape is flat but for ``1 / T`` cycles per token round it,
        and direction and frequency are unknown together. This looks at all frequencies between ``fmin`` and
        ``fmax`` instead. Couplings and strengths stay. Training by gradient can follow.

        Parameters
        ----------
        x
            Features ``[batch, token, in_features]``, standardised; more records than features.
        labels
            Class of each record, integers ``[batch]`` from 0 to ``n_outputs - 1``; 0 and 1 for one output.
        lengths
            As of `synchrony`; 4 tokens or more each.
        every_token
            Whether the read-out is to be right at all tokens of a record, and not at the last alone.

        Returns
        -------
        tuple of Rhythm
            The clearest first: number ``k`` went to oscillator ``k % n_oscillators``, plane ``k //
            n_oscillators``. When records cannot tell so many apart, the other planes stay as they were.

        Raises
        ------
        ParameterError
            If a class has fewer than two records, or a record fewer than four tokens.

        Notes
        -----
        Rhythms are those of `resonance_lens.nn.tuning.rhythms`. A drive is the signal in the rhythm's
        direction at a root mean square of 1. The read-out is Fisher's linear discriminant of the features at
        the last token, or at all of them.
        """
        real = real_tokens(x, lengths)
        n_real = real.sum((1, 2))
        n_classes = max(self.n_outputs, 2)
        require_classes("OscillatorBank.tune", labels, len(x), n_classes)
        if int(n_real.min()) < 4:
            shortest = int(n_real.min())
            raise ParameterError(
                wrong_parameter("OscillatorBank.tune", "lengths", "4 tokens or more each", shortest)
            )
        labels = labels.to(x.device)
        # Frequencies are placed more finely than single precision can tell powers apart.
        known = torch.where(real, x, 0.0).double()
        found = rhythms(known, n_real, labels, self.fmin, self.fmax, self.n_oscillators * self.n_planes)
        for k, rhythm in enumerate(found):
            plane, oscillator = divmod(k, self.n_oscillators)
            signal = known.to(rhythm.direction.dtype) @ rhythm.direction.conj()
            weights = rhythm.direction.conj() / (signal.abs().square().sum() / real.sum()).sqrt()
            self.drive[oscillator, plane] = weights.real.to(self.drive.dtype)
            self.drive[oscillator, self.n_planes + plane] = weights.imag.to(self.drive.dtype)
            wanted = math.log(2 * rhythm.frequency / (1 - 2 * rhythm.frequency))
            self.frequency_shift[oscillator, plane] = self.window * (wanted - self.start[oscillator, plane])
        features = self.synchrony(x, lengths).features
        if every_token:
            features, labels = features[real[..., 0]], labels.repeat_interleave(n_real)
        else:
            features = last_token(features, lengths)
        weight, bias = discriminant(features.double(), labels, n_classes)
        if self.n_outputs == 1:
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        return tuple(found)

    def behind(self, projection: Tensor) -> OscillatorBank:
        """Return a bank that does with ``x`` what this one does with ``x @ projection``.

        Where features are more than records: reduce them, tune a small bank, and put it behind the reduction.

        Parameters
        ----------
        projection
            ``[feature, in_features]``.
        """
        made = type(self).from_card(self.card() | {"in_features": len(projection)})
        made.load_state_dict(self.state_dict() | {"drive": self.drive.detach() @ projection.T})
        return made

    def _drive(self, x: Tensor) -> Tensor:
        """Return drives ``[batch, token, oscillator, plane]``, complex, of norm below 1 over planes."""
        flat = functional.linear(x, self.drive.flatten(0, 1)).unflatten(-1, self.drive.shape[:2])
        if flat.dtype in (torch.float16, torch.bfloat16):
            flat = flat.float()  # phases add up over tokens: half precision would lose them
        saturated = flat / torch.sqrt(1 + flat.square().sum(-1, keepdim=True))
        return torch.complex(saturated[..., : self.n_planes], saturated[..., self.n_planes :])

    def _states(self, drive: Tensor) -> Tensor:
        """Return states along tokens as complex numbers ``[batch, token, oscillator, plane]``, of norm 1."""
        real = drive.real.dtype
        angular = 2 * math.pi * self.frequencies.to(real)
        turn = torch.polar(torch.ones_like(angular), angular)
        pushes = drive * self.strength.to(real)[:, None]
        state = torch.full_like(drive[:, 0], 1 / math.sqrt(self.n_planes))
        coupling = self.coupling.to(real)
        states = []
        for push in pushes.unbind(1):
            turned = state * turn
            if self.update == "kuramoto":
                field = push + (turned[..., 0] @ coupling.T.to(turned.dtype))[..., None]
                angle = pull(turned, field)
                state = turned * torch.polar(torch.ones_like(angle), angle)
            else:
                flat = torch.view_as_real(turned).flatten(1) @ coupling.T
                field = push + torch.view_as_complex(flat.unflatten(1, (*turned.shape[1:], 2)))
                along = (field * turned.conj()).real.sum(-1, keepdim=True)
                moved = turned + field - along * turned
                state = moved / moved.abs().square().sum(-1, keepdim=True).sqrt()
            states.append(state)
        return torch.stack(states, dim=1)


def _recent(n: int, window: float, like: Tensor) -> Tensor:
    """Return weights ``[token, earlier token]`` of an average over the past; rows add up to 1."""
    at = torch.arange(n, device=like.device, dtype=like.dtype)
    lag = at[:, None] - at[None, :]
    weights = torch.where(lag >= 0, torch.exp(-lag.clamp_min(0) / window), 0.0)
    return weights / weights.sum(1, keepdim=True)
