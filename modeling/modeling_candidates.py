"""What models of particle-flow candidates share, and the simplest of them, the particle flow network.

A jet is a list of candidates, not an image. Further letters in shape comments: `N` candidates, `M` those of all jets
of a batch, `F` features.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils.generic import can_return_tuple

from .configuration_candidates import CandidatesConfig, ParticleFlowNetworkConfig
from .modeling_constants import constant
from .modeling_e2e import E2EForImageClassification, E2EModelOutput, E2EOutput, E2EPreTrainedModel
from .modeling_head import E2EHead
from .modeling_precision import no_autocast
from .modeling_trainer import shown_to_trainer

__all__ = [
    "CANDIDATE_FIELDS",
    "NUM_FEATURES",
    "CandidateNorm",
    "CandidatesForJetClassification",
    "CandidatesModel",
    "CandidatesPreTrainedModel",
    "ParticleFlowNetworkForJetClassification",
    "ParticleFlowNetworkModel",
    "axes_of",
    "candidate_features",
    "padded",
    "wrapped",
]

# GeV, radians and cm; `id` is the PDG code
CANDIDATE_FIELDS = ("id", "charge", "pt", "energy", "eta", "phi", "d0", "dz", "d0_error", "dz_error")
ID, CHARGE, PT, ENERGY, ETA, PHI, D0, DZ, D0_ERROR, DZ_ERROR = range(len(CANDIDATE_FIELDS))
KINDS = (211, 130, 22, 11, 13)  # charged and neutral hadrons, photons, electrons, muons
NUM_FEATURES = 5 + 1 + len(KINDS) + 4 + 2
MM = 10.0  # in a cm
LEAST = 1e-8  # argument of a logarithm
MOST = 5.0  # absolute value of a kinematic feature


class CandidatesPreTrainedModel(E2EPreTrainedModel):
    config: CandidatesConfig
    config_class = CandidatesConfig
    main_input_name = "candidate_values"
    supports_gradient_checkpointing = False
    reads_candidates = True

    @torch.no_grad()
    def _init_weights(self, module):
        """PyTorch's default, as in all three published codes."""
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        else:
            super()._init_weights(module)


class CandidatesModel(CandidatesPreTrainedModel):
    """From candidates to a vector for each jet. A subclass says how, in `encode`."""

    def encode(self, features: torch.Tensor, values: torch.Tensor, is_real: torch.Tensor):
        """Candidates `(B, N, D)` and jets `(B, D)`, from [`candidate_features`] `(B, N, F)`, the candidates
        themselves in float32, and which of them exist `(B, N)`."""
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self, candidate_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> E2EModelOutput:
        """`candidate_values` `(B, N, 10)`: see [`CandidatesForJetClassification`]."""
        if self.wants_hidden_states(output_hidden_states, kwargs):
            raise ValueError(f"{type(self).__name__} returns no hidden states: it has no image of tokens.")
        values, is_real = _checked(candidate_values)
        features = candidate_features(values, is_real).to(self.dtype)
        tokens, pooled = self.encode(features, values, is_real)
        return E2EModelOutput(last_hidden_state=tokens, pooler_output=pooled)


class CandidatesForJetClassification(CandidatesPreTrainedModel, E2EForImageClassification):
    """Class and mass heads behind a model of candidates, `model_class`."""

    model_class: type[CandidatesModel]

    def __init__(self, config):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.model_class(config))
        self.head = E2EHead(config, config.hidden_size)
        self.post_init()

    @shown_to_trainer
    @can_return_tuple
    def forward(
        self,
        candidate_values: torch.Tensor,
        aux_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mass_labels: torch.Tensor | None = None,
        mass_weights: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        containment_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> E2EOutput:
        r"""As [`E2EForImageClassification`], but for the input.

        Args:
            candidate_values (`torch.Tensor` of shape `(batch_size, num_candidates, 10)`):
                [`CANDIDATE_FIELDS`] of each candidate: PDG code, charge, pT and energy [GeV], eta and phi, d0 and dz
                and their errors [cm]. Jets with fewer candidates are filled up with zeros.

        Raises:
            ValueError: for candidates of another shape, or `aux_values` that do not match the configuration.
        """
        outputs = self.base_outputs(candidate_values, output_hidden_states=output_hidden_states, **kwargs)
        predictions = self.head(outputs.pooler_output, aux_values)
        return self.with_losses(outputs, predictions, labels, mass_labels, mass_weights, containment_labels)


def _checked(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidates in float32, and which of them exist; a jet without any gets one without energy."""
    if values.ndim != 3 or values.shape[2] != len(CANDIDATE_FIELDS) or not values.shape[1]:
        raise ValueError(
            f"Expected `candidate_values` of shape (batch_size, num_candidates, {len(CANDIDATE_FIELDS)}): "
            f"{', '.join(CANDIDATE_FIELDS)}; got {tuple(values.shape)}."
        )
    values = values.float()
    is_real = values[..., PT] > 0
    is_first = F.pad(is_real.new_ones(len(values), 1), (0, values.shape[1] - 1))
    return values, is_real | (is_first & ~is_real.any(1, keepdim=True))


def wrapped(angle: torch.Tensor) -> torch.Tensor:
    """An angle [rad] between -π and π."""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi


def axes_of(values: torch.Tensor) -> torch.Tensor:
    """pT, energy [GeV], eta and phi of the sum of all candidates, `(4, B, 1)`."""
    pt, eta, phi = (values[..., place] for place in (PT, ETA, PHI))
    px, py, pz, energy = (
        part.sum(1, keepdim=True) for part in (pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), values[..., ENERGY])
    )
    total = torch.hypot(px, py)
    return torch.stack([total, energy, (pz / total.clamp(min=LEAST)).asinh(), torch.atan2(py, px)])


@torch.no_grad()
def candidate_features(values: torch.Tensor, is_real: torch.Tensor) -> torch.Tensor:
    """The 17 inputs of the published Particle Transformer (`JetClass_full.yaml` of
    https://github.com/jet-universe/particle_transformer), `(B, N, F)`, zero in padding.

    Energies are relative to the jet, and angles to its axis. The jet is the sum of its candidates, so that a model
    needs no other input.
    """
    jet_pt, jet_energy, jet_eta, jet_phi = axes_of(values)
    pt, energy = values[..., PT], values[..., ENERGY]
    eta, phi = values[..., ETA] - jet_eta, wrapped(values[..., PHI] - jet_phi)

    def scaled_log(value, mean):
        return ((value.clamp(min=LEAST).log() - mean) * 0.7).clamp(-MOST, MOST)

    kinematics = [
        scaled_log(pt, 1.7),
        scaled_log(energy, 2.0),
        scaled_log(pt / jet_pt.clamp(min=LEAST), -4.7),
        scaled_log(energy / jet_energy.clamp(min=LEAST), -4.7),
        ((torch.hypot(eta, phi) - 0.2) * 4).clamp(-MOST, MOST),
    ]
    kinds = values[..., ID].abs().unsqueeze(2) == constant(KINDS, values.device)
    impact = [(MM * values[..., D0]).tanh(), (MM * values[..., D0_ERROR]).clamp(0, 1)]
    impact += [(MM * values[..., DZ]).tanh(), (MM * values[..., DZ_ERROR]).clamp(0, 1)]
    others = torch.stack([*impact, eta, phi], dim=2)
    features = torch.cat(
        [torch.stack(kinematics, dim=2), values[..., CHARGE : CHARGE + 1], kinds.float(), others], dim=2
    )
    return features * is_real.unsqueeze(2)


class CandidateNorm(nn.BatchNorm1d):
    """BatchNorm over candidates or pairs `(M, D)`, in the precision of its weights under autocast, too; a single row,
    which has no variance, is normalised with the running statistics.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with no_autocast(input):
            input = input.to(self.weight.dtype)
            if len(input) > 1:
                return super().forward(input)
            statistics = self.running_mean, self.running_var
            return F.batch_norm(input, *statistics, self.weight, self.bias, eps=self.eps)


def padded(candidates: torch.Tensor, is_real: torch.Tensor) -> torch.Tensor:
    """Candidates of all jets `(M, D)` to `(B, N, D)`."""
    tokens = candidates.new_zeros(*is_real.shape, candidates.shape[1])
    return tokens.index_put(is_real.nonzero(as_tuple=True), candidates)


class ParticleFlowNetworkModel(CandidatesModel):
    """F(Σ Φ(candidate))."""

    config_class = ParticleFlowNetworkConfig
    base_model_prefix = "particle_flow_network"

    def __init__(self, config):
        super().__init__(config)
        self.phi = _layers(NUM_FEATURES, config)
        self.f = _layers(config.hidden_size, config)
        self.post_init()

    def encode(self, features, values, is_real):
        tokens = self.phi(features) * is_real.unsqueeze(2)
        return tokens, self.f(tokens.sum(1))


def _layers(width: int, config) -> nn.Sequential:
    layers = []
    for _ in range(config.num_hidden_layers):
        layers += [nn.Linear(width, config.hidden_size), nn.ReLU(), nn.Dropout(config.dropout)]
        width = config.hidden_size
    return nn.Sequential(*layers)


class ParticleFlowNetworkForJetClassification(CandidatesForJetClassification):
    """A particle flow network with class and mass heads."""

    config_class = ParticleFlowNetworkConfig
    base_model_prefix = "particle_flow_network"
    model_class = ParticleFlowNetworkModel
