"""Models of candidates: the published ones to the last parameter, and their formulas beside slow twins."""

import numpy as np
import pytest
import torch
from e2evit.modeling import (
    CANDIDATE_FAMILIES,
    CANDIDATE_FIELDS,
    E2EImageProcessor,
    ParticleFlowNetworkConfig,
    ParticleNetConfig,
    ParticleTransformerConfig,
)
from e2evit.modeling.modeling_candidates import NUM_FEATURES, axes_of, candidate_features
from e2evit.modeling.modeling_particle_net import EdgeConvolution, nearest
from e2evit.modeling.modeling_particle_transformer import PairBias, pair_features
from e2evit.modeling.pipeline_e2e import E2EJetsPipeline
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

from e2evit.hub.export import ExportModule

PUBLISHED = {  # parameters with ten classes, of which the classifier has the last ones
    "particle_transformer": (2_143_486, 128),
    "particle_net": (370_156, 256),
    "particle_flow_network": (86_154, 128),
}
SMALL = {
    "particle_transformer": ParticleTransformerConfig(
        hidden_size=16, num_hidden_layers=2, num_class_attention_layers=1, num_attention_heads=2, pair_hidden_sizes=[8]
    ),
    "particle_net": ParticleNetConfig(num_neighbors=4, edge_hidden_sizes=[8, 12], hidden_size=16),
    "particle_flow_network": ParticleFlowNetworkConfig(hidden_size=16),
}
MASSES = {211: 0.13957, 11: 0.000511, 13: 0.10566, 22: 0.0, 130: 0.0}


def jets(*counts, length=None, seed=0):
    """Jets with so many candidates each, with the kinematics of real ones, filled up to `length`."""
    rng = np.random.default_rng(seed)
    values = np.zeros((len(counts), length or max(counts), len(CANDIDATE_FIELDS)))
    for jet, number in enumerate(counts):
        code = rng.choice(list(MASSES), number)
        charge = rng.choice([-1, 1], number) * ~np.isin(code, (22, 130))
        pt, eta, phi = rng.exponential(6, number) + 0.5, rng.normal(0.5, 0.3, number), rng.normal(3.1, 0.3, number)
        phi = (phi + np.pi) % (2 * np.pi) - np.pi
        mass = np.array([MASSES[one] for one in code])
        energy = np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2)
        impact = rng.normal(0, 0.05, (2, number)) * (charge != 0)
        columns = [np.where(charge < 0, -code, code), charge, pt, energy, eta, phi, *impact, *abs(impact) / 3]
        values[jet, :number] = np.stack(columns, axis=1)
    return torch.tensor(values, dtype=torch.float32)


def make(name, seed=0):
    torch.manual_seed(seed)
    return CANDIDATE_FAMILIES[name].classifier(SMALL[name]).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    number, width = PUBLISHED[name]
    family = CANDIDATE_FAMILIES[name]
    with torch.device("meta"):
        model = family.model(family.config())
    assert sum(one.numel() for one in model.parameters()) == number - 10 * (width + 1)


@pytest.mark.parametrize("name", SMALL)
def test_jets_do_not_depend_on_padding_batch_or_order(name):
    model, values = make(name), jets(9, 3, 6)
    with torch.no_grad():
        expected = model(values)
        padded = model(F.pad(values, (0, 0, 0, 5)))
        alone = model(values[1:2, :3])
        shuffled = model(values[:, torch.randperm(9)])
    for name in ("logits", "mass_preds"):
        # sums in another order
        assert torch.allclose(padded[name], expected[name], rtol=1e-4, atol=1e-5)
        assert torch.allclose(alone[name], expected[name][1:2], rtol=1e-4, atol=1e-5)
        assert torch.allclose(shuffled[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_training_reaches_every_parameter(name):
    model = make(name).train()
    outputs = model(jets(9, 3, 0), labels=torch.tensor([0, 1, 0]), mass_labels=torch.tensor([80.0, 120.0, 50.0]))
    outputs.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_is_near(name):
    model, values = make(name), jets(9, 6)
    with torch.no_grad():
        expected = model(values).logits
        with torch.autocast("cpu", torch.bfloat16):
            got = model(values).logits
    assert torch.allclose(got.float(), expected, atol=0.05)  # eight bits of numbers near one


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.bfloat16, 0.05)])
def test_weights_of_other_precisions(name, dtype, tolerance):
    model, values = make(name), jets(9, 6)
    with torch.no_grad():
        expected = model(values).logits
        got = model.to(dtype)(values).logits
    assert torch.allclose(got.float(), expected, atol=tolerance)  # features are float32; eight bits of bfloat16


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_of_one_candidate_trains(name):
    loss = make(name).train()(jets(1), labels=torch.tensor([1])).loss
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("name", SMALL)
def test_checkpoints_come_back(name, tmp_path):
    model, values = make(name), jets(5, 2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(values).logits, model(values).logits)


def test_features_are_those_of_the_published_recipe():
    values = jets(7, length=9)
    is_real = values[..., 2] > 0
    features = candidate_features(values, is_real)[0].double()
    assert features.shape == (9, NUM_FEATURES)
    assert not features[7:].any()
    code, charge, pt, energy, eta, phi, d0, dz, d0_error, dz_error = values[0, :7].double().T
    px, py, pz = (pt * phi.cos()).sum(), (pt * phi.sin()).sum(), (pt * eta.sinh()).sum()
    eta, phi = eta - (pz / torch.hypot(px, py)).asinh(), phi - torch.atan2(py, px)
    phi = torch.atan2(phi.sin(), phi.cos())
    expected = [
        (pt.log() - 1.7) * 0.7,
        (energy.log() - 2.0) * 0.7,
        ((pt / torch.hypot(px, py)).log() + 4.7) * 0.7,
        ((energy / energy.sum()).log() + 4.7) * 0.7,
        (torch.hypot(eta, phi) - 0.2) * 4,
    ]
    expected = [one.clamp(-5, 5) for one in expected]
    expected += [charge, *((code.abs() == kind).double() for kind in (211, 130, 22, 11, 13))]
    expected += [
        (10 * d0).tanh(),
        (10 * d0_error).clamp(0, 1),
        (10 * dz).tanh(),
        (10 * dz_error).clamp(0, 1),
        eta,
        phi,
    ]
    assert torch.allclose(features[:7], torch.stack(expected, 1), atol=1e-5)  # single precision
    assert torch.allclose(axes_of(values)[0, 0, 0].double(), torch.hypot(px, py), rtol=1e-6)


def four_vectors(values):
    """px, py, pz and energy of candidates `(P, 10)` in double precision, with the masses of their kinds."""
    code, pt, eta, phi = (values[:, CANDIDATE_FIELDS.index(name)].double() for name in ("id", "pt", "eta", "phi"))
    mass = torch.tensor([MASSES[abs(int(one))] for one in code], dtype=torch.float64)
    px, py, pz = pt * phi.cos(), pt * phi.sin(), pt * eta.sinh()
    return torch.stack([px, py, pz, (px**2 + py**2 + pz**2 + mass**2).sqrt()])


@pytest.mark.parametrize("scale", [1.0, 300.0])  # of all pT: at 300 GeV, E² - p² in single precision is noise
def test_pair_features_are_those_of_the_paper(scale):
    values = jets(40)[0]
    values[:, 2] *= scale
    first, second = values.repeat_interleave(40, 0), values.repeat(40, 1)
    one, other = four_vectors(first), four_vectors(second)

    def rapidity(vector):
        return 0.5 * ((vector[3] + vector[2]) / (vector[3] - vector[2])).log()

    phi = torch.atan2(one[1], one[0]) - torch.atan2(other[1], other[0])
    apart = torch.hypot(rapidity(one) - rapidity(other), torch.atan2(phi.sin(), phi.cos()))
    pt, other_pt = torch.hypot(one[0], one[1]), torch.hypot(other[0], other[1])
    total = one + other
    mass = total[3] ** 2 - (total[:3] ** 2).sum(0)
    softer = torch.minimum(pt, other_pt)
    expected = torch.stack([softer * apart, softer / (pt + other_pt), apart, mass], dim=1).clamp(min=1e-8).log()
    usable = (apart > 1e-3) & (mass > 1e-3)  # where doubles are exact
    assert usable.float().mean() > 0.9
    assert torch.allclose(pair_features(first, second)[usable].double(), expected[usable], atol=2e-3)


def test_biases_of_pairs_equal_those_of_all_places():
    """The twin computes each of the N x N pairs, absent ones too."""
    bias, values = PairBias(SMALL["particle_transformer"]).eval(), jets(6, 4)
    is_real = values[..., 2] > 0
    got = bias(values, is_real, torch.float32)
    first = values.unsqueeze(2).expand(-1, -1, 6, -1).reshape(-1, 10)
    second = values.unsqueeze(1).expand(-1, 6, -1, -1).reshape(-1, 10)
    features = bias.norm(pair_features(first, second))
    for layer, norm in zip(bias.layers, bias.norms):
        features = F.gelu(norm(layer(features)))
    twin = features.view(2, 6, 6, 2).permute(0, 3, 1, 2)
    both = (is_real.unsqueeze(2) & is_real.unsqueeze(1)).unsqueeze(1).expand_as(twin)
    assert torch.allclose(got[both], twin[both], atol=1e-5)
    assert got[1, :, :4, 4:].eq(float("-inf")).all()
    weights = torch.randn(int(both.sum()), generator=torch.Generator().manual_seed(0))
    gradients = [
        torch.autograd.grad((one[both] * weights).sum(), bias.layers[0].weight, retain_graph=True)[0]
        for one in (got, twin)
    ]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_neighbors_are_the_nearest():
    points, is_real = torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(1)), torch.ones(2, 7, dtype=bool)
    is_real[1, 3:] = False
    places = nearest(points, is_real, 4)
    apart = torch.cdist(points[0], points[0]).fill_diagonal_(float("inf"))
    assert torch.equal(places[0].sort(1)[0], apart.argsort(1)[:, :4].sort(1)[0])
    assert all(sorted(places[1, one].tolist()) == sorted([*{0, 1, 2} - {one}, one, one]) for one in range(3))


def test_edge_convolutions_equal_those_of_pairs():
    torch.manual_seed(0)
    layer = EdgeConvolution(5, 8).eval()
    features, neighbors = torch.randn(6, 5, requires_grad=True), torch.randint(0, 6, (6, 3))
    got = layer(features, neighbors)
    own = features.unsqueeze(1).expand(-1, 3, -1)
    edges = torch.cat([own, features[neighbors] - own], dim=2)
    for linear, norm in zip(layer.layers, layer.norms):
        edges = norm(linear(edges).transpose(1, 2)).transpose(1, 2).relu()
    twin = (layer.shortcut(features) + edges.mean(1)).relu()
    assert torch.allclose(got, twin, atol=1e-5)
    gradients = [torch.autograd.grad(one.square().sum(), features, retain_graph=True)[0] for one in (got, twin)]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_refusals(name):
    model = make(name)
    for wrong in (torch.zeros(2, 3, 9), torch.zeros(2, 10), torch.zeros(2, 0, 10)):
        with pytest.raises(ValueError, match="Expected `candidate_values` of shape"):
            model(wrong)
    with pytest.raises(ValueError, match="returns no hidden states"):
        model(jets(3), output_hidden_states=True)
    with pytest.raises(ValueError, match="`energy_pooling` is for models of images"):
        type(SMALL[name])(energy_pooling=True)
    with pytest.raises(ValueError, match="reads candidates; only models of images"):
        ExportModule(model, E2EImageProcessor())
    with pytest.raises(ValueError, match="candidates: call the model"):
        E2EJetsPipeline(model=model, image_processor=E2EImageProcessor())


def test_layers_are_needed():
    with pytest.raises(ValueError, match="`num_hidden_layers` must be 1 or more"):
        ParticleFlowNetworkConfig(num_hidden_layers=0)
    with pytest.raises(ValueError, match="`num_class_attention_layers` must be 1 or more"):
        ParticleTransformerConfig(num_class_attention_layers=0)


def test_heads_share_the_width():
    with pytest.raises(ValueError, match="cannot be split into 3 attention heads"):
        ParticleTransformerConfig(num_attention_heads=3)
