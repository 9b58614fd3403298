"""`python -m voxport_exporters.probes FOLDER`: the one-node graphs with which `voxport bench` finds a machine's peaks.

The runtime cannot build graphs (no onnx there), so they ship as files, runtime/voxport/probes/*.onnx.
"""

import sys
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

from voxport_exporters.targets import IR_VERSION, OPSET


def probes() -> dict[str, ModelProto]:
    """File stem -> y = a b of two inputs: float32, and uint8 by int8."""
    kinds = {
        "matmul_fp32": ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT),
        "matmul_int8": ("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),
    }
    return {name: _matmul(name, *kind) for name, kind in kinds.items()}


def _matmul(name: str, op: str, a: int, b: int, y: int) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["y"])],
        name,
        [helper.make_tensor_value_info("a", a, ["m", "k"]), helper.make_tensor_value_info("b", b, ["k", "n"])],
        [helper.make_tensor_value_info("y", y, ["m", "n"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


if __name__ == "__main__":
    for stem, model in probes().items():
        (Path(sys.argv[1]) / f"{stem}.onnx").write_bytes(model.SerializeToString())
