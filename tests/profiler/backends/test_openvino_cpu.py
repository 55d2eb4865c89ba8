"""What the inputs of OpenVINO's requests hold."""

import gc

import numpy as np
import pytest

from autotune.core.layers import LayerShape
from autotune.profiler.backends import make_backend, openvino_cpu
from autotune.profiler.backends.onnx_layers import layer_model

SHAPE = LayerShape(tokens=64, in_features=256, out_features=8)


@pytest.mark.skipif(
    "bf16" not in make_backend("openvino-cpu").inference_dtypes("fp32"),
    reason="OpenVINO has no bf16 on this processor",
)
def test_a_request_keeps_its_input_in_bf16():
    """A tensor of an array has that memory only while Python holds the tensor."""
    model = openvino_cpu._in_bf16(openvino_cpu._read(layer_model(SHAPE, 1)))
    compiled = openvino_cpu._compiled(model, 1, dtype="bf16")
    requests = []
    for number in range(20):
        request = compiled.create_infer_request()
        values = np.full((SHAPE.tokens, SHAPE.in_features), number, np.float32)
        request.set_input_tensor(openvino_cpu._bf16_tensor(values))
        requests.append(request)
    gc.collect()
    for number, request in enumerate(requests):
        bits = request.get_input_tensor().data.view(np.uint16).astype(np.uint32) << 16
        assert (bits.view(np.float32) == number).all()
