"""Graphs as another project would release them, for tests of GraphFile."""

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from voxport.graphs.stage import Stage, TensorSpec
from voxport_exporters.graphs.graphfile import GraphFile

Array = np.ndarray
BANDS, WIDTH, VOICE = 6, 48, 5
STAGE = Stage(
    "ids",
    (TensorSpec("feats", "float32", (1, BANDS, "time")), TensorSpec("length", "int32", (1,))),
    (TensorSpec("indices", "int64", (1, "tokens")), TensorSpec("voice", "float32", (1, VOICE))),
)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def released(axes: tuple[str | None, str | None] = ("T", "L"), *, turned: bool = True, opset: int = 17) -> ModelProto:
    """Every second frame becomes an id; a voice is the mean of all. `axes`: names of time and of the ids.

    Two MatMuls, one of which has its weight in a Constant node, and a Gemm whose weight is `turned` or not.
    """
    shallow = normal(WIDTH, VOICE, seed=3)
    gemm = np.ascontiguousarray(shallow.T) if turned else shallow
    constants = {
        "conv": normal(WIDTH, BANDS, 2, seed=1),
        "weight": normal(WIDTH, WIDTH, seed=2) / np.float32(WIDTH**0.5),
        "gemm": gemm,
        "bias": normal(VOICE, seed=4),
        "powers": np.array([1, 3, 9], np.float32),
        "axis": np.array([2], np.int64),
    }
    head = numpy_helper.from_array(normal(WIDTH, 3, seed=5) / np.float32(WIDTH**0.5), "head")
    nodes = [
        helper.make_node("Conv", ["feats", "conv"], ["frames"], kernel_shape=[2], strides=[2]),
        helper.make_node("Transpose", ["frames"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["rows", "weight"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], ["hidden"]),
        helper.make_node("Constant", [], ["head"], value=head),
        helper.make_node("MatMul", ["hidden", "head"], ["scores"]),
        helper.make_node("Sign", ["scores"], ["levels"]),
        helper.make_node("Mul", ["levels", "powers"], ["placed"]),
        helper.make_node("ReduceSum", ["placed", "axis"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["indices"], to=TensorProto.INT64),
        helper.make_node("ReduceMean", ["hidden"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["mean", "gemm", "bias"], ["voice"], transB=int(turned)),
    ]
    graph = helper.make_graph(
        nodes,
        "released",
        [
            helper.make_tensor_value_info("feats", TensorProto.FLOAT, ["B", BANDS, axes[0]]),
            helper.make_tensor_value_info("length", TensorProto.INT32, ["B"]),
        ],
        [
            helper.make_tensor_value_info("indices", TensorProto.INT64, ["B", axes[1]]),
            helper.make_tensor_value_info("voice", TensorProto.FLOAT, ["B", VOICE]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def call(frames: int = 40) -> dict[str, Array]:
    return {"feats": normal(1, BANDS, frames, seed=7), "length": np.array([frames], np.int32)}


def graph_file(folder: Path, model: ModelProto | None = None) -> GraphFile:
    path = folder / "released_v3.onnx"
    path.write_bytes((model or released()).SerializeToString())
    return GraphFile(STAGE, path, 20, call)
