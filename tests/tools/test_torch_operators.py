"""`tools/torch_operators.py`: the kinds of PyTorch's operators, and both gradients of a convolution."""

from __future__ import annotations

import operator_kinds as kinds
import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _denormals_as_before():
    """A comparison flushes them, for the whole process: other tests must not find it so."""
    yield
    torch.set_flush_denormal(False)


def test_an_operator_is_of_the_kind_of_its_nearest_known_caller():
    from torch_operators import BACKWARD, kind_of

    assert kind_of(["aten::mul_", "Optimizer.step#Adadelta.step", "step::optimizer"], 2) == kinds.OPTIMIZER
    assert kind_of(["aten::fill_", "aten::max_pool2d_with_indices_backward"], 2) == kinds.POOLING_BACKWARD
    assert kind_of(["aten::mkldnn_convolution", "aten::conv2d", "step::forward"], 2) == kinds.CONVOLUTION_FORWARD
    assert kind_of(["aten::mm", "AddmmBackward0"], 2) == kinds.MATRIX
    assert kind_of(["aten::native_batch_norm_backward", "NativeBatchNormBackward0"], 1) == kinds.BATCH_NORM_BACKWARD
    assert kind_of(["aten::native_batch_norm", "aten::batch_norm"], 1) == kinds.BATCH_NORM
    assert [kind_of([BACKWARD], n) for n in (1, 2)] == [kinds.OTHER, kinds.COLLECTIVE]
    assert kind_of(["aten::add", "step::forward"], 2) == kinds.OTHER


def test_the_table_tells_both_gradients_apart_and_adds_up_to_the_step():
    import torch_operators
    import torch_side

    torch_side.prepare(1)
    first, second = torch.nn.Conv2d(3, 64, 3, bias=False), torch.nn.Conv2d(64, 8, 3, bias=False)
    images = torch.randn(8, 3, 20, 20)

    def step() -> None:
        with torch_operators.named(torch_operators.FORWARD):
            loss = second(torch.relu(first(images))).mean()
        with torch_operators.named(torch_operators.BACKWARD):
            loss.backward()

    step()
    found = torch_operators.table(step, steps=2, processes=1, layout=torch.contiguous_format)
    rows = {row["kind"]: row for row in found["rows"]}
    assert set(rows) <= set(kinds.KINDS)
    assert rows[kinds.CONVOLUTION_FORWARD]["calls"] == 2 and rows[kinds.CONVOLUTION_KERNEL]["calls"] == 2
    assert rows[kinds.CONVOLUTION_INPUT]["calls"] == 1 and rows[kinds.CONVOLUTION_INPUT]["self_ms"] > 0
    assert sum(row["self_ms"] for row in found["rows"]) == pytest.approx(found["step_ms"], rel=0.02)
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1, abs=0.02)
