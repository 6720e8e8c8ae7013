"""The heads, for the jet's class, its mass in GeV and its containment, and their losses."""

import torch
from torch import nn
from torch.nn import functional as F

from .modeling_constants import constant
from .modeling_sizes import pad_to_multiple
from .modeling_stem import linear_pixels

__all__ = [
    "E2EHead",
    "EnergyPooling",
    "class_loss",
    "class_scores",
    "containment_loss",
    "e2e_loss",
    "has_no_heads",
    "mass_in_gev",
]

MIN_CONTENT = 1e-3  # a channel with less counts as empty, in units of linear pixels
MASS_OUTPUTS = {"huber": 1, "gaussian": 2, "quantile": 3}
LOWER, UPPER = 0.16, 0.84  # one standard deviation either side


class EnergyPooling(nn.Module):
    """Tokens averaged with the content of their patches as weights, once per detector channel.

    A plain mean over tokens averages over a nearly empty detector. This is the sum of z_i Φ(x_i) of an energy flow
    network (https://arxiv.org/abs/1810.05165, equation 1.2) with the backbone as Φ, which suits energies, jet masses
    and other infrared- and collinear-safe shapes. The logarithms of the channels' totals are appended.

    Args:
        stride: Pixels along the side of a patch; without it, found from the number of tokens.
    """

    def __init__(self, config, hidden_size: int, stride: int | None = None):
        super().__init__()
        self.num_channels, self.stride = config.num_channels, stride
        self.width = max(1, hidden_size // config.num_channels)
        self.values = nn.Linear(hidden_size, self.num_channels * self.width)
        self.output = nn.Linear(self.num_channels * (self.width + 1), hidden_size)

    def forward(self, tokens: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """`tokens` `(B, N, D)` of patches that tile the image, with or without a class token in front, to `(B, D)`."""
        content = self._patches(linear_pixels(pixel_values), tokens.shape[1])
        content = content.flatten(2).float()  # [B, C, N]
        tokens = tokens[:, tokens.shape[1] - content.shape[2] :]
        total = content.sum(2)
        shares = content / total.clamp(min=MIN_CONTENT).unsqueeze(2)
        values = self.values(tokens).unflatten(2, (self.num_channels, self.width)).permute(0, 2, 1, 3)
        pooled = (shares.to(values.dtype).unsqueeze(2) @ values).flatten(1)  # [B, C d]
        return self.output(torch.cat([pooled, total.log1p().to(pooled.dtype)], dim=1))

    def _patches(self, content: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """Pixels `(B, C, H, W)` to their sums in patches `(B, C, H', W')`; the last patches may overhang the image."""
        if self.stride is not None:
            row = column = self.stride
            content = pad_to_multiple(content, self.stride)
        else:
            height, width = content.shape[-2:]
            if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage] # where sizes are tensors; a trace fixes them
                num_tokens, height, width = int(num_tokens), int(height), int(width)
            rows = round((num_tokens * height / width) ** 0.5)
            columns = num_tokens // rows
            if num_tokens - rows * columns > 1:
                raise ValueError(
                    f"`energy_pooling` needs patches that tile the image: {num_tokens} tokens do not form a grid over "
                    f"{height} x {width} pixels."
                )
            row, column = -(-height // rows), -(-width // columns)  # sides of a patch
            content = F.pad(content, (0, column * columns - width, 0, row * rows - height))
        content = content.unflatten(3, (content.shape[3] // column, column)).sum(4)
        return content.unflatten(2, (content.shape[2] // row, row)).sum(3)


class E2EHead(nn.Module):
    """A linear classifier and a small mass regressor on the pooled feature, to which `aux_values` are added.

    Returns `logits` `(B, num_labels)`; `mass_outputs` `(B, 1, 2 or 3)`, float32, as [`mass_in_gev`] reads them; the
    learned weights of the loss, if there are any: offloaded parameters exist only while their module computes; and
    with `config.containment` its logits `(B,)`, float32, from the hidden layer of the mass, else `None`.
    `stride` is that of [`EnergyPooling`]; a model whose tokens are no patches brings its own `energy_pooling`. The
    output of `mass_pooling`, from the same tokens, is added for the mass head only.
    """

    def __init__(
        self,
        config,
        hidden_size: int,
        stride: int | None = None,
        energy_pooling: nn.Module | None = None,
        mass_pooling: nn.Module | None = None,
    ):
        super().__init__()
        self.num_aux_features = config.num_aux_features
        if config.energy_pooling and energy_pooling is None:
            energy_pooling = EnergyPooling(config, hidden_size, stride)
        self.energy_pooling, self.mass_pooling = energy_pooling, mass_pooling
        self.classifier = nn.Linear(hidden_size, config.num_labels)
        self.mass_hidden = nn.Linear(hidden_size, hidden_size)
        self.mass_output = nn.Linear(hidden_size, MASS_OUTPUTS[config.mass_loss])
        if self.num_aux_features:
            self.aux_hidden = nn.Linear(self.num_aux_features, hidden_size)
            self.aux_output = nn.Linear(hidden_size, hidden_size)
        self.containment = nn.Linear(hidden_size, 1) if config.containment else None
        has_weights = config.loss_weighting == "uncertainty"
        self.loss_log_variances = nn.Parameter(torch.empty(2)) if has_weights else None  # of classes and mass
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if self.loss_log_variances is not None:
            self.loss_log_variances.zero_()

    def forward(self, pooled, aux_values=None, tokens=None, pixel_values=None):
        """`pooled` `(B, D)`, `aux_values` `(B, num_aux_features)`; `tokens`, `pixel_values`: see [`EnergyPooling`]."""
        expected = (pooled.shape[0], self.num_aux_features)
        if self.num_aux_features:
            if aux_values is None or tuple(aux_values.shape) != expected:
                got = "none" if aux_values is None else tuple(aux_values.shape)
                raise ValueError(
                    f"This model needs `aux_values` of shape {expected} (`config.num_aux_features`), got {got}."
                )
            pooled = pooled + self.aux_output(F.gelu(self.aux_hidden(aux_values.to(pooled.dtype))))
        if self.energy_pooling is not None:
            pooled = pooled + self.energy_pooling(tokens, pixel_values)
        mass_input = pooled if self.mass_pooling is None else pooled + self.mass_pooling(tokens, pixel_values)
        mass_hidden = F.gelu(self.mass_hidden(mass_input))
        mass_outputs = self.mass_output(mass_hidden).float()
        containment = None if self.containment is None else self.containment(mass_hidden).flatten().float()
        return self.classifier(pooled), mass_outputs, self.loss_log_variances, containment


def mass_in_gev(config, mass_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`mass_outputs` `(B, k)` to the mass `(B,)` and its uncertainty `(B,)`, both in GeV.

    Columns, on the standardised scale: the mass; with the Gaussian loss, the logarithm of its width; with quantiles,
    the distances of the 16 % and 84 % quantiles, before a softplus. `config.mass_temperature` scales the width.
    """

    def to_gev(standardised):
        mass = config.mass_mean + config.mass_std * standardised
        return mass.exp() if config.log_mass else mass

    mass_preds = to_gev(mass_outputs[:, 0])
    if config.mass_loss == "huber":
        return mass_preds, None
    if config.mass_loss == "gaussian":
        scale = config.mass_std * mass_outputs[:, 1].exp()
        scale = scale * mass_preds if config.log_mass else scale
    else:
        lower, _, upper = _quantiles(mass_outputs)
        scale = (to_gev(upper) - to_gev(lower)) / 2
    return mass_preds, config.mass_temperature * scale


def e2e_loss(config, logits, mass_outputs, labels=None, mass_labels=None, mass_weights=None, log_variances=None):
    """The loss of the classes plus one of standardised masses, each over the samples that have that target.

    Args:
        config: Its `label_smoothing`, `class_weights`, `mass_loss`, `mass_loss_weight` and the mass scale.
        logits: `(B, num_labels)`.
        mass_outputs: `(B, k)`, see [`mass_in_gev`].
        labels: As [`class_loss`].
        mass_labels: `(B,)` or `(B, 1)` [GeV]; NaN is a missing target, with `log_mass` so is any mass not above 0.
        mass_weights: `(B,)`, weights of the samples in the mass loss, e.g. to flatten a spectrum.
        log_variances: `(2,)`, learned weights of the two terms instead of `mass_loss_weight` (equations 5 to 10 of
            Kendall et al., https://arxiv.org/abs/1705.07115).

    Returns:
        `(loss, classification_loss, mass_loss)`; `None` without targets.

    Raises:
        ValueError: for targets of another shape.
    """
    classification_loss = mass_loss = None
    if labels is not None:
        classification_loss = class_loss(config, logits, labels)
    if mass_labels is not None:
        mass_labels = _one_each("mass_labels", mass_labels, mass_outputs)
        if mass_weights is not None:
            mass_weights = _one_each("mass_weights", mass_weights, mass_outputs)
        known = mass_labels.isfinite() & (mass_labels > 0) if config.log_mass else mass_labels.isfinite()
        # replace missing targets before the difference: NaN times zero would still poison the gradient
        mass = mass_labels.where(known, 1.0)
        target = ((mass.log() if config.log_mass else mass) - config.mass_mean) / config.mass_std
        weights = known if mass_weights is None else known * mass_weights
        terms = _mass_terms(config.mass_loss, mass_outputs, target).where(known, 0.0)
        mass_loss = (terms * weights).sum() / weights.sum().clamp(min=1e-6)
    return _combine(config, classification_loss, mass_loss, log_variances), classification_loss, mass_loss


def containment_loss(containment_logits: torch.Tensor | None, labels: torch.Tensor | None) -> torch.Tensor | None:
    """Binary cross-entropy over the samples that have this target; `None` without targets.

    Args:
        containment_logits: `(B,)`, those of [`E2EHead`].
        labels: `(B,)` or `(B, 1)`, 1 for a jet that contains all of the decay, 0 for another; NaN is a missing target.

    Raises:
        ValueError: for targets of another shape, or a model without these logits.
    """
    if labels is None:
        return None
    if containment_logits is None:
        raise ValueError("`containment_labels` are targets of a model with `containment: true` in its configuration.")
    labels = _one_each("containment_labels", labels.float(), containment_logits)
    known = ~labels.isnan()
    terms = F.binary_cross_entropy_with_logits(containment_logits, labels.where(known, 0.0), reduction="none")
    return (terms * known).sum() / known.sum().clamp(min=1)


def _one_each(name: str, values: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """`(B,)`, of `(B,)` or `(B, 1)`; other shapes would be broadcast without a word."""
    if tuple(values.shape) not in ((outputs.shape[0],), (outputs.shape[0], 1)):
        raise ValueError(
            f"Expected `{name}` of shape ({outputs.shape[0]},), one for each image, got {tuple(values.shape)}."
        )
    return values.flatten()


def class_loss(config, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, binary cross-entropy of several labels per image, or squared error: see `config.problem_type`.

    For the first, `labels` are `(B,)`, -100 where missing. For the others they have the shape of `logits`
    `(B, num_labels)`, or `(B,)` if `num_labels` is 1; missing ones are NaN, or -100 among integers.
    """
    problem_type = _problem_type(config, labels)
    if problem_type == "single_label_classification":
        labels = labels.long().flatten()  # of any whole type, (B,) or (B, 1)
        weights = None if config.class_weights is None else constant(tuple(config.class_weights), logits.device)
        total = F.cross_entropy(
            logits.float(), labels, weights, reduction="sum", label_smoothing=config.label_smoothing
        )
        known = labels != -100
        count = known.sum() if weights is None else (weights[labels.clamp(min=0)] * known).sum()
        return total / count.clamp(min=1e-6)
    labels = labels.unsqueeze(1) if labels.ndim == 1 and config.num_labels == 1 else labels
    if labels.shape != logits.shape:
        raise ValueError(
            f"With `problem_type` {problem_type!r}, `labels` have the shape of the logits, "
            f"{tuple(logits.shape)}; got {tuple(labels.shape)}."
        )
    if labels.is_floating_point():
        config.problem_type = problem_type  # for pipelines; whole numbers may all be missing
    known = ~labels.isnan() if labels.is_floating_point() else labels != -100
    # replace missing targets before the difference: NaN times zero would still poison the gradient
    labels = labels.float().where(known, 0.0)
    loss = F.mse_loss if problem_type == "regression" else F.binary_cross_entropy_with_logits
    return (loss(logits.float(), labels, reduction="none") * known).sum() / known.sum().clamp(min=1)


def _problem_type(config, labels: torch.Tensor) -> str:
    """What `labels` are, by transformers' rules."""
    if config.problem_type is not None:
        return config.problem_type
    if not labels.is_floating_point():
        return "regression" if config.num_labels == 1 else "single_label_classification"
    problem_type = "regression" if config.num_labels == 1 else "multi_label_classification"
    config.check_problem_type(problem_type)
    return problem_type


def class_scores(config, logits: torch.Tensor) -> torch.Tensor:
    """Probabilities from logits `(..., num_labels)`, or the numbers themselves of a regression."""
    logits = logits.float()
    if config.problem_type == "regression":
        return logits
    return logits.sigmoid() if config.problem_type == "multi_label_classification" else logits.softmax(-1)


def has_no_heads(config) -> bool:
    """Whether a checkpoint is of a model for masked images or a bare backbone."""
    return any(name.endswith(("ForMaskedImageModeling", "Model")) for name in config.architectures or ())


def _mass_terms(mass_loss: str, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Loss of each sample, `(B,)`."""
    if mass_loss == "huber":
        return F.smooth_l1_loss(outputs[:, 0], target, reduction="none")
    if mass_loss == "gaussian":
        log_width = outputs[:, 1].clamp(-7, 7)
        return 0.5 * ((target - outputs[:, 0]) * (-log_width).exp()).square() + log_width
    error = target.unsqueeze(1) - torch.stack(_quantiles(outputs), dim=1)
    # numbers instead of a tensor of them, whose way to a GPU would have to be waited for
    shares = zip((LOWER, 0.5, UPPER), error.unbind(1))
    return sum(torch.maximum(share * part, (share - 1) * part) for share, part in shares)  # pyright: ignore


def _quantiles(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """16 %, 50 % and 84 %, standardised; ordered whatever the network predicts."""
    median, below, above = outputs.unbind(1)
    return median - F.softplus(below), median, median + F.softplus(above)


def _combine(config, classification_loss, mass_loss, log_variances):
    if log_variances is not None:
        class_log_variance, mass_log_variance = log_variances
        if classification_loss is not None:
            classification_loss = (-class_log_variance).exp() * classification_loss + class_log_variance / 2
        if mass_loss is not None:
            mass_loss = 0.5 * ((-mass_log_variance).exp() * mass_loss + mass_log_variance)
    elif mass_loss is not None:
        mass_loss = config.mass_loss_weight * mass_loss
    if classification_loss is None or mass_loss is None:
        return mass_loss if classification_loss is None else classification_loss
    return classification_loss + mass_loss
