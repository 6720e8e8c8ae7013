"""The losses against formulas from other libraries, and masses and widths in GeV."""

import numpy as np
import pytest
import torch
from e2evit.modeling import XCiTConfig, XCiTForImageClassification
from e2evit.modeling.modeling_head import EnergyPooling, e2e_loss, mass_in_gev
from e2evit.modeling.modeling_stem import linear_pixels
from sklearn.metrics import mean_pinball_loss
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

MASSES = torch.tensor([60.0, 80.0, float("nan"), 173.0, 125.0])
KNOWN = MASSES.isfinite()


def config(**fields):
    scale = {"mass_mean": 4.6, "mass_std": 0.5} if fields.get("log_mass") else {"mass_mean": 100.0, "mass_std": 40.0}
    return XCiTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **(scale | fields))


def standardised(config):
    return ((MASSES.log() if config.log_mass else MASSES) - config.mass_mean) / config.mass_std


def outputs(number):
    return torch.randn(5, number, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.mark.parametrize("log_mass", [False, True])
def test_mass_losses_agree_with_other_libraries(log_mass):
    logits = torch.zeros(5, 2)

    def loss(name, out, **more):
        return e2e_loss(config(mass_loss=name, log_mass=log_mass), logits, out, mass_labels=MASSES, **more)[2]

    target = standardised(config(log_mass=log_mass))[KNOWN]
    out = outputs(2)
    torch.testing.assert_close(loss("huber", out[:, :1]), F.smooth_l1_loss(out[KNOWN, 0], target))
    variance = (2 * out[KNOWN, 1]).exp()
    torch.testing.assert_close(loss("gaussian", out), F.gaussian_nll_loss(out[KNOWN, 0], target, variance))
    out = outputs(3)
    quantiles = (out[:, 0] - F.softplus(out[:, 1]), out[:, 0], out[:, 0] + F.softplus(out[:, 2]))
    expected = sum(
        mean_pinball_loss(target.numpy(), quantile[KNOWN].detach().numpy(), alpha=alpha)
        for alpha, quantile in zip((0.16, 0.5, 0.84), quantiles)
    )
    assert loss("quantile", out).item() == pytest.approx(expected, rel=1e-5)
    weights = torch.tensor([1.0, 2.0, 5.0, 0.0, 1.0])
    each = F.smooth_l1_loss(out[KNOWN, 0], target, reduction="none")
    expected = (each * weights[KNOWN]).sum() / 4.0
    torch.testing.assert_close(loss("huber", out[:, :1], mass_weights=weights), expected)


@pytest.mark.parametrize(("name", "number"), [("huber", 1), ("gaussian", 2), ("quantile", 3)])
@pytest.mark.parametrize("log_mass", [False, True])
def test_missing_masses_leave_no_nan(name, number, log_mass):
    out = outputs(number)
    masses = torch.cat([MASSES[:3], torch.tensor([0.0, -1.0])])
    e2e_loss(config(mass_loss=name, log_mass=log_mass), torch.zeros(5, 2), out, mass_labels=masses)[0].backward()
    assert out.grad.isfinite().all()
    missing = [2, 3, 4] if log_mass else [2]
    assert (out.grad[missing] == 0).all()
    assert (out.grad[:2, 0] != 0).all()


@pytest.mark.parametrize("name", ["gaussian", "quantile"])
@pytest.mark.parametrize("log_mass", [False, True])
def test_the_width_is_in_gev(name, log_mass):
    """For small widths, the width scales with the derivative of the mass scale, in both cases."""
    settings = config(mass_loss=name, log_mass=log_mass, mass_temperature=2.0)
    width = 1e-3
    inverse_softplus = np.log(np.expm1(width))
    columns = [0.3, np.log(width)] if name == "gaussian" else [0.3, inverse_softplus, inverse_softplus]
    mass, scale = mass_in_gev(settings, torch.tensor([columns]))
    location = settings.mass_mean + settings.mass_std * 0.3
    expected = np.exp(location) if log_mass else location
    assert mass.item() == pytest.approx(expected, rel=1e-5)
    assert scale.item() == pytest.approx(2 * width * settings.mass_std * (expected if log_mass else 1), rel=1e-2)


@pytest.mark.parametrize("log_mass", [False, True])
def test_a_model_without_a_mass_scale_is_near_100_gev(log_mass, tmp_path):
    XCiTConfig(log_mass=log_mass).save_pretrained(tmp_path)
    loaded = XCiTConfig.from_pretrained(tmp_path)
    mass, scale = mass_in_gev(XCiTConfig.from_pretrained(tmp_path, mass_loss="gaussian"), torch.zeros(1, 2))
    assert (mass.item(), scale.item()) == (pytest.approx(100), pytest.approx(50))
    assert XCiTConfig(**loaded.to_dict()).to_dict() == loaded.to_dict()


def test_class_weights_and_label_smoothing_agree_with_torch():
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, -100, 1, 0])
    settings = config(class_weights=[0.5, 2.0], label_smoothing=0.1)
    found = e2e_loss(settings, logits, outputs(1), labels=labels)
    expected = F.cross_entropy(logits, labels, torch.tensor([0.5, 2.0]), label_smoothing=0.1)
    torch.testing.assert_close(found[0], expected)
    assert found[2] is None


def test_learned_weights_find_the_noise_of_each_term():
    """At the minimum, each variance equals the loss it divides (half of it for classes)."""
    log_variances = torch.zeros(2, requires_grad=True)
    settings, logits, labels = config(loss_weighting="uncertainty"), torch.randn(5, 2), torch.tensor([0, 1, 0, 1, 1])
    optimizer = torch.optim.Adam([log_variances], lr=0.05)
    for _ in range(500):
        loss, classes, mass = e2e_loss(settings, logits, outputs(1).detach(), labels, MASSES, None, log_variances)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(log_variances.exp(), torch.stack([2 * classes, mass]), rtol=0.01, atol=0)


def test_every_field_survives_a_checkpoint(tmp_path):
    model = XCiTForImageClassification(
        config(mass_loss="quantile", loss_weighting="uncertainty", log_mass=True)
    ).eval()
    with torch.no_grad():
        model.head.loss_log_variances += 1
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    pixel_values = torch.rand(2, 8, 50, 50)
    for name in ("mass_preds", "mass_scale_preds", "mass_outputs"):
        assert torch.equal(model(pixel_values)[name], loaded(pixel_values)[name])
    assert torch.equal(loaded.head.loss_log_variances, torch.ones(2))


@pytest.mark.parametrize(("height", "width", "class_token"), [(10, 20, False), (9, 18, True)])
def test_energy_pooling_weights_tokens_by_the_energy_of_their_patches(height, width, class_token):
    pooling = EnergyPooling(config(num_channels=2), hidden_size=4)
    rows, columns = 2, 4  # patches of 5 x 5; the last ones lie partly outside the smaller image
    tokens = torch.randn(3, rows * columns + class_token, 4)
    pixel_values = torch.zeros(3, 2, height, width)
    pixel_values[0, 0, 1, 2], pixel_values[0, 0, 7, 16] = 1.0, 2.0  # in the first and in the last patch
    pixel_values[1, 1, 6, 1] = -0.5  # in patch (1, 0), of a signed channel
    found = pooling(tokens, pixel_values)

    patches = pooling.values(tokens[:, class_token:])  # [B, N, C d]
    linear = linear_pixels(torch.tensor([1.0, 2.0, 0.5]))
    expected, totals = torch.zeros(3, 4), torch.zeros(3, 2)
    expected[0, :2] = (linear[0] * patches[0, 0, :2] + linear[1] * patches[0, 7, :2]) / (linear[0] + linear[1])
    expected[1, 2:] = patches[1, 4, 2:]
    totals[0, 0], totals[1, 1] = linear[0] + linear[1], linear[2]
    torch.testing.assert_close(found, pooling.output(torch.cat([expected, totals.log1p()], dim=1)))
    with pytest.raises(ValueError, match="14 tokens do not form a grid over"):
        pooling(torch.randn(3, 14, 4), pixel_values)
