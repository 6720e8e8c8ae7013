"""Distance correlation against the textbook, and trainings with it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from forked import run_python
from killed import resume_until_done
from samples import make_result, row_table
from test_resuming import equal_weights

from e2evit.results.tables import PRINTED, results_table
from e2evit.training import (
    DataArguments,
    DecorrelationArguments,
    MaskArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
    loaders,
    rewind,
    train,
)
from e2evit.training.decorrelation import decorrelation_metrics, distance_correlation, mass_correlation
from e2evit.training.state import latest_state

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)
MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def textbook(first, second, weights=None):
    """dCov² (X, Y) / (dCov² (X, X) dCov² (Y, Y))^½ of arXiv:2001.05310, whose weights have a mean of one."""
    number = len(first)
    weights = np.ones(number) if weights is None else weights * number / weights.sum()

    def mean(matrix):
        return sum(weights[i] * weights[j] * matrix[i, j] for i in range(number) for j in range(number)) / number**2

    def centred(values):
        distances = np.abs(np.subtract.outer(values, values))
        rows = np.array([np.mean(weights * row) for row in distances])
        return distances - rows[:, None] - rows[None, :] + mean(distances)

    first, second = centred(first), centred(second)
    return mean(first * second) / np.sqrt(mean(first**2) * mean(second**2))


def samples(number=12):
    masses = RNG.uniform(50, 250, number)
    return masses, np.sin(masses / 40) + RNG.normal(0, 0.5, number), RNG.integers(0, 4, number).astype(float)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_textbook(weighted):
    masses, scores, weights = samples()
    masses[3] = masses[4]  # where the distance has a kink
    given = (weights,) if weighted else ()
    expected = textbook(masses, scores, *given)
    values = [torch.tensor(of, requires_grad=number < 2) for number, of in enumerate((masses, scores, *given))]
    found = distance_correlation(*values)
    assert found.dtype == torch.float64
    # rounding of double precision
    assert found.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(found, values[1])
    step = 1e-6
    for row in range(len(scores)):
        moved = [textbook(masses, scores + sign * step * (np.arange(len(scores)) == row), *given) for sign in (-1, 1)]
        # central differences err by about 1e-16 / 1e-6
        assert gradient[row].item() == pytest.approx((moved[1] - moved[0]) / (2 * step), abs=1e-8)


def test_gradients():
    first, second, weights = (torch.tensor(of, requires_grad=True) for of in samples())
    assert torch.autograd.gradcheck(distance_correlation, (first, second))
    weights = weights.detach() + 0.5
    assert torch.autograd.gradcheck(lambda *of: distance_correlation(*of, weights), (first, second))


def test_a_weight_counts_like_as_many_samples():
    masses, scores, weights = (torch.tensor(of) for of in samples(40))
    repeated = [of.repeat_interleave(weights.long()) for of in (masses, scores)]
    found = distance_correlation(masses, scores, 7 * weights)
    torch.testing.assert_close(found, distance_correlation(*repeated))
    # those without weight may be anything
    masses[weights == 0], scores[weights == 0] = np.nan, np.inf
    scores.requires_grad_()
    same = distance_correlation(masses, scores, weights)
    torch.testing.assert_close(same, found)
    same.backward()
    assert not scores.grad[weights == 0].any()
    assert scores.grad[weights > 0].all()


def test_known_values():
    line = torch.linspace(-3, 5, 50)
    assert distance_correlation(line, 2 - 7 * line).item() == pytest.approx(1)
    assert distance_correlation(line, line**2).item() > 0.1  # their correlation coefficient may be zero
    torch.manual_seed(0)
    assert distance_correlation(torch.randn(1000), torch.randn(1000)).item() < 0.01  # of the order of 3 / n


@pytest.mark.parametrize(
    ("first", "second", "weights"),
    [
        ([], [], None),
        ([1.0], [2.0], None),
        ([1.0, 2.0], [3.0, 5.0], None),
        ([1.0, 2.0, 4.0], [3.0, 5.0, 4.0], [0, 1, 1]),
        ([1.0, 2.0, 4.0], [3.0, 5.0, 4.0], [0, 0, 0]),
        ([80.4] * 5, [0.1, 0.2, 0.4, 0.3, 0.0], None),
        ([0.1, 0.2, 0.4, 0.3, 0.0], [1 / 3] * 5, None),
    ],
)
def test_where_it_is_not_defined(first, second, weights):
    values = [torch.tensor(of, requires_grad=True) for of in (first, second)]
    found = distance_correlation(*values, None if weights is None else torch.tensor(weights))
    found.backward()
    assert found.item() == 0
    assert not any(of.grad.any() for of in values)


def test_precision():
    """The numbers of autocast are computed with in float32, and so is what has a scale of its own."""
    masses, scores, _ = samples(200)
    masses, rounded = torch.tensor(masses).float(), torch.tensor(scores).bfloat16().requires_grad_()
    expected = textbook(masses.double().numpy(), rounded.detach().double().numpy())
    with torch.autocast("cpu", torch.bfloat16):
        found = distance_correlation(masses, rounded)
        far = distance_correlation(1e6 * masses, 1e-6 * rounded.float())
    found.backward()
    assert found.dtype == torch.float32
    # a few roundings of float32; bfloat16 would err by 1e-2
    assert [found.item(), far.item()] == pytest.approx([expected] * 2, rel=1e-5)
    assert rounded.grad.isfinite().all()


def test_the_score_of_a_jet():
    """dCorr² of the background alone, of what rises with the probability of any signal, however sure the model is."""
    torch.manual_seed(0)
    logits, labels = torch.randn(60, 3), torch.arange(60) % 3
    masses = torch.rand(60) * 200
    masses[:9] = float("nan")
    chosen = (labels == 0) & masses.isfinite()
    probabilities = logits[chosen].double().softmax(1)
    expected = distance_correlation(masses[chosen], (probabilities[:, 1:].sum(1) / probabilities[:, 0]).log())
    assert mass_correlation(logits, labels, masses).item() == pytest.approx(expected.item(), rel=1e-5)
    grouped = [of.unflatten(0, (20, 3)) for of in (logits, labels, masses)]  # the jets of events
    assert torch.equal(mass_correlation(*grouped), mass_correlation(logits, labels, masses))
    sure = (logits - torch.tensor([100.0, 0, 0])).requires_grad_()  # probabilities of the signal are rounded to one
    found = mass_correlation(sure, labels, masses)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    assert sure.grad[chosen].abs().sum(1).all()
    assert not sure.grad[~chosen].any()


def test_metrics_of_validation():
    """Of samples, but the same whatever their number is if jets do not depend on the mass."""
    labels = np.repeat([0, 1, -100], [5000, 500, 10])
    masses = RNG.uniform(50, 250, len(labels)).astype(np.float32)
    masses[::7] = np.nan
    score = RNG.normal(size=len(labels)) + labels
    blind = decorrelation_metrics(np.stack([-score, score], 1).astype(np.float32), labels, masses)
    score = np.where(np.isnan(masses), 0, masses)
    seeing = decorrelation_metrics(np.stack([-score, score], 1).astype(np.float32), labels, masses)
    assert blind.keys() == seeing.keys() == {"decorrelation_loss", "mass_divergence_at_50"}
    assert blind["decorrelation_loss"] < 0.01
    assert blind["mass_divergence_at_50"] < 0.02
    assert seeing["decorrelation_loss"] == pytest.approx(1, rel=1e-4)
    assert seeing["mass_divergence_at_50"] > 0.9


def test_the_term_removes_the_dependence():
    """Of two variables that tell signal from background, one is the mass: the sum of both losses ignores it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    variables = torch.randn(200, 2, generator=generator) + 2 * labels.unsqueeze(1)
    found = []
    for weight in (0, 3):
        coefficients = torch.zeros(2, requires_grad=True)
        optimizer = torch.optim.Adam([coefficients], 0.1)
        for _ in range(60):
            scores = variables @ coefficients
            logits = torch.stack([torch.zeros_like(scores), scores], dim=1)
            correlation = mass_correlation(logits, labels, variables[:, 0])
            optimizer.zero_grad()
            (torch.nn.functional.cross_entropy(logits, labels) + weight * correlation).backward()
            optimizer.step()
        found.append((correlation.item(), *coefficients.tolist()))
    assert found[0][0] > 0.3
    assert found[1][0] < 0.1
    assert found[0][1] > 0.5 * found[0][2] > 0
    assert found[1][2] > 5 * abs(found[1][1])


@pytest.fixture
def run(jets_dir, tmp_path):
    """A function that trains in this process and returns model and history."""
    (tmp_path / "model.json").write_text(json.dumps(MODEL))

    def start(name, decorrelation=None, targets=None, data=None, mask=None, **overrides):
        settings = {"num_train_epochs": 2, "per_device_batch_size": 16, "ema_decay": 0.9, "logging_steps": 3}
        settings |= {"mixed_precision": "no", "report_to": "none", "overwrite_output_dir": True}
        trained = train(
            tmp_path / "model.json",
            data or DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache")),
            TrainArguments(output_dir=str(tmp_path / name), **settings | overrides),
            targets=targets or TargetArguments(mass_column="jet_mass"),
            decorrelation=decorrelation,
            mask=mask,
        )
        return trained.model, trained.history

    return start


def entries(history):
    """Without times, and without NaN, which is not equal to itself."""
    return [{key: v for key, v in entry.items() if "second" not in key and v == v} for entry in history.epochs]


def test_a_weight_of_zero_changes_nothing(run, tmp_path):
    plain, history = run("plain")
    off, same = run("off", DecorrelationArguments(0, "pt"))
    assert equal_weights(plain, off)
    assert entries(same) == entries(history)
    assert not any("decorrelation" in name for entry in history.epochs for name in entry)
    settings = json.loads((latest_state(tmp_path / "off/state") / "state.json").read_text())["settings"]
    assert not any("decorrelation" in name for name in settings)  # a state of an earlier version is resumed


def test_the_term_is_logged_and_resumed(run, monkeypatch, caplog):
    """Bit for bit; the best epoch is the best with the term."""
    settings = {"gradient_accumulation_steps": 2, "save_steps": 1}
    whole, history = run("whole", DecorrelationArguments(2.0), **settings)
    assert "A batch holds about 8 jets of class qcd" in caplog.text
    for entry in history.epochs:
        for prefix in ("", "validation_"):
            assert 0 < entry[f"{prefix}decorrelation_loss"] < 1
        terms = entry["classification_loss"] + entry["mass_loss"]
        assert entry["loss"] == pytest.approx(terms + 2 * entry["decorrelation_loss"], rel=1e-5)
        assert "validation_mass_divergence_at_50" in entry
    assert history.best_loss == min(entry["validation_loss"] for entry in history.epochs)
    resumed, again = resume_until_done(
        lambda: run("parts", DecorrelationArguments(2.0), resume_from_checkpoint=True, **settings), monkeypatch
    )
    assert equal_weights(whole, resumed)
    assert entries(again) == entries(history)
    monkeypatch.undo()
    plain, _ = run("plain", **settings)
    assert not equal_weights(whole, plain)
    with pytest.raises(ValueError, match=r"decorrelation_weight \(was 2\.0, is 3\.0\)"):
        run("parts", DecorrelationArguments(3.0), resume_from_checkpoint=True, **settings)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_the_way_of_the_data_changes_no_number(run, monkeypatch):
    """Rows on the device, and losses that are read later, as on GPUs."""
    asked = DecorrelationArguments(2.0)
    plain, history = run("plain", asked)
    monkeypatch.setattr(rewind, "DEFERRED", {"cpu"})
    monkeypatch.setattr(loaders, "SENT_AS_LISTS", {"cpu"})
    for device_data in ("yes", "no"):
        other, same = run(f"resident_{device_data}", asked, device_data=device_data)
        assert equal_weights(plain, other)
        assert [entry["loss"] for entry in same.epochs] == [entry["loss"] for entry in history.epochs]


def test_bfloat16(run):
    model, history = run("run", DecorrelationArguments(2.0), mixed_precision="bf16", num_train_epochs=1)
    assert 0 < history.epochs[0]["decorrelation_loss"] < 1
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.slow
def test_what_is_compiled_does_not_know_the_term(run, monkeypatch):
    compile_with, graphs = torch.compile, []

    def counted(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_with(model, backend=counted))
    plain, _ = run("plain", DecorrelationArguments(2.0))
    compiled, _ = run("compiled", DecorrelationArguments(2.0), torch_compile=True)
    torch.compiler.reset()
    assert len(graphs) == 1  # of training; there are fewer validation jets than in a batch
    for name, tensor in plain.state_dict().items():
        # the term is a ratio of small sums, of 16 jets
        torch.testing.assert_close(compiled.state_dict()[name], tensor, rtol=1e-2, atol=6e-4)


@pytest.mark.parametrize(
    ("column", "targets", "message"),
    [
        ("mass", {}, "'mass' is not in the data: choose `decorrelation_mass` from .*jet_mass"),
        ("event_id", {}, "'event_id' does not hold numbers: choose `decorrelation_mass`"),
        (
            "mass_labels",
            {},
            r"\(qcd\) with different masses in `mass_labels`; of \d+ in the validation split none has",
        ),
        (
            "mass_labels",
            {"classes": ["top", "qcd"]},
            r"background jets \(top\) .* in the train split all have 173 GeV",
        ),
        ("jet_mass", {"mass_classes": ["top"]}, "none has any.* with `mass_classes`, other classes lose their"),
        ("jet_mass", {"classes": ["qcd"]}, "needs a background and a signal, and the data has no two classes"),
    ],
)
def test_masses_that_cannot_be_decorrelated(run, tmp_path, column, targets, message):
    with pytest.raises(ValueError, match=message) as error:
        run("run", DecorrelationArguments(1.0, column), TargetArguments("jet_mass", **targets))
    assert "\n" not in str(error.value)
    assert not any((tmp_path / "run").glob("[!.]*"))


def test_missing_masses_are_left_out(run, tmp_path, caplog):
    (tmp_path / "jets").mkdir()
    masses = RNG.uniform(60, 200, 80).astype(np.float32)
    rows = row_table(80, jet_mass=pa.array(masses, mask=np.arange(80) % 3 == 0), mass_labels=masses)
    pq.write_table(rows, tmp_path / "jets/part.parquet")
    data = DataArguments(data_dir=str(tmp_path / "jets"), cache_dir=str(tmp_path / "cache"))
    _, history = run("run", DecorrelationArguments(1.0), TargetArguments("mass_labels"), data)
    assert "training jets of class qcd have no `jet_mass`: scores are decorrelated on the others" in caplog.text
    assert 0 < history.epochs[0]["decorrelation_loss"] < 1


def test_pretraining_has_no_scores():
    with pytest.raises(ValueError, match="learns from images alone: leave out decorrelation_weight"):
        Recipe(mask=MaskArguments(), decorrelation=DecorrelationArguments(1.0))
    Recipe(mask=MaskArguments(), decorrelation=DecorrelationArguments(0))
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="decorrelation_weight"):
            DecorrelationArguments(wrong)


def test_the_divergence_is_printed_beside_the_rejection():
    metrics = {"rejection_at_50": 20.0, "mass_divergence_at_50": 0.03, "mae_gev": 10.0}
    table = results_table({"a": make_result("a", 0, metrics)}, keys=PRINTED)
    assert "| rejection at 50 % | mass sculpting at 50 % | mass MAE [GeV] |" in table


def test_no_device_is_waited_for():
    """A tensor without values cannot be asked for one."""
    logits = torch.zeros(16, 3, device="meta", requires_grad=True)
    labels = torch.zeros(16, dtype=torch.long, device="meta")
    found = mass_correlation(logits, labels, torch.zeros(16, device="meta"))
    found.backward()
    assert logits.grad.shape == logits.shape


TRAIN = """
import sys
import e2evit
from e2evit.training import DecorrelationArguments
jets, model, folder, accumulation = sys.argv[1:]
data = e2evit.DataArguments(data_dir=jets, cache_dir=f"{folder}/cache", train_fraction=64 / 114)  # whole batches
settings = e2evit.TrainArguments(
    output_dir=folder, num_train_epochs=1, per_device_batch_size=8, gradient_accumulation_steps=int(accumulation),
    mixed_precision="no", report_to="none",
)
e2evit.train(
    model, data, settings, targets=e2evit.TargetArguments(mass_column="jet_mass"),
    decorrelation=DecorrelationArguments(2.0),
)
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_each_process_has_its_own_batch(jets_dir, tmp_path):
    """Two processes train as one that accumulates two batches."""
    (tmp_path / "model.json").write_text(json.dumps(MODEL | {"model_type": "hitvit", "pixel_hidden_size": 8}))
    (tmp_path / "train.py").write_text(TRAIN)
    epochs = []
    for config, accumulation in (("one_process", "2"), ("two_cpu_processes", "1")):
        launcher = ("-m", "accelerate.commands.launch", "--config_file", ROOT / f"recipes/accelerate/{config}.yaml")
        arguments = (jets_dir, tmp_path / "model.json", tmp_path / config, accumulation)
        done = run_python(*launcher, tmp_path / "train.py", *arguments)
        assert not done.returncode, done.stderr[-3000:]
        epochs.append(json.loads((tmp_path / config / "run_info.json").read_text())["epochs"][0])
    for name in ("loss", "decorrelation_loss", "validation_loss", "validation_decorrelation_loss"):
        # the order of summation differs, and Adam magnifies that where gradients vanish
        assert epochs[1][name] == pytest.approx(epochs[0][name], rel=1e-3)
