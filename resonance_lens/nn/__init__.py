"""Trainable modules in pure torch: a head for ordered targets, coupled oscillators, a learned filter."""

from resonance_lens.nn.cards import CardModule as CardModule
from resonance_lens.nn.cards import from_card as from_card
from resonance_lens.nn.cards import last_token as last_token
from resonance_lens.nn.cyclic import CyclicFilter as CyclicFilter
from resonance_lens.nn.fourier import FourierHead as FourierHead
from resonance_lens.nn.fourier import smoothness as smoothness
from resonance_lens.nn.hidden import HiddenHead as HiddenHead
from resonance_lens.nn.kuramoto import kuramoto_phases as kuramoto_phases
from resonance_lens.nn.linear import LinearHead as LinearHead
from resonance_lens.nn.locking import Locking as Locking
from resonance_lens.nn.locking import locking as locking
from resonance_lens.nn.oscillators import OscillatorBank as OscillatorBank
from resonance_lens.nn.oscillators import Synchrony as Synchrony
from resonance_lens.nn.spectral import SpectralFilter as SpectralFilter
from resonance_lens.nn.tuning import Rhythm as Rhythm
