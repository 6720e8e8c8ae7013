"""Models compute the same on a GPU as on a CPU."""

import pytest
import torch
from models import batch, make


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name",
    [
        *("linearvit", "linearvit_study", "xcit", "xcit_study", "vit"),
        *("hitvit", "hitvit_convolution", "hitvit_patches"),
    ],
)
def test_outputs_and_gradients_agree(name, monkeypatch):
    # TF32 products keep ten bits of the mantissa
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    inputs = batch()
    expected_model, model = make(name), make(name).cuda()
    expected, actual = expected_model(**inputs), model(**{key: value.cuda() for key, value in inputs.items()})
    # sums in another order
    torch.testing.assert_close(actual.logits.cpu(), expected.logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(actual.mass_preds.cpu(), expected.mass_preds, rtol=1e-3, atol=1e-2)
    expected.loss.backward()
    actual.loss.backward()
    for parameter, other in zip(expected_model.parameters(), model.parameters(), strict=True):
        if parameter.grad is not None:
            assert (other.grad.cpu() - parameter.grad).norm() <= 1e-2 * parameter.grad.norm() + 1e-5
