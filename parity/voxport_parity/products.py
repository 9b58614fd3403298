"""Products of quantized graphs held to their kernels' arithmetic, one by one.

Each is fed what the graph's own gets, so that no rounding reaches the next one: where a whole net, an int8 codec for
instance, shows no more than that some activation rounded the other way, its products still agree to float32's sums.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor

from voxport import bounds
from voxport.graphs.ort import OPTIONS, OrtSession
from voxport.graphs.session import Array, Session, State
from voxport.graphs.stage import Stage
from voxport.recipe import Recipe
from voxport_exporters.graphs.graphfile import GraphFile
from voxport_exporters.graphs.part import Part
from voxport_exporters.targets import TARGETS
from voxport_parity.compare import Diff, compare
from voxport_parity.rounding import product
from voxport_parity.trace import Trace

# Portable 4-bit products in float32, as their operators say; onnxruntime would round what goes in to 8 bits.
AS_WRITTEN = {**OPTIONS, "session.qdq_matmulnbits_accuracy_level": "1"}
_FOLDER = "session.model_external_initializers_file_folder_path"  # of external data, for a model that is in memory


class Recorder:
    """Opens graphs for a Bundle, and keeps of each the inputs and states of its largest call, by stage."""

    def __init__(self) -> None:
        self.calls: dict[str, Trace] = {}

    def __call__(self, path: Path, threads: int = 1) -> Session:
        return _Recorded(OrtSession(path, threads, AS_WRITTEN), self.calls)


class _Recorded:
    """A Session whose largest call is recorded."""

    def __init__(self, session: OrtSession, calls: dict[str, Trace]) -> None:
        self._session, self._calls, self._constants = session, calls, Trace()
        self._largest = 0

    @property
    def stage(self) -> Stage:
        """See `Session`."""
        return self._session.stage

    @property
    def threads(self) -> int:
        """See `Session`."""
        return self._session.threads

    def start(self, constants: Mapping[str, Array] | None = None, /, **axes: int) -> State:
        """See `Session`."""
        self._constants = dict(constants or {})
        return self._session.start(constants, **axes)

    def __call__(
        self, state: State, *, into: Mapping[str, Array] | None = None, **inputs: Array
    ) -> tuple[dict[str, Array], State]:
        """See `Session`."""
        size = sum(array.size for array in inputs.values())
        if size > self._largest or self.stage.name not in self._calls:
            self._largest = size
            arrays = {**self._constants, **inputs, **state}
            self._calls[self.stage.name] = {name: np.array(array) for name, array in arrays.items()}
        return self._session(state, into=into, **inputs)


@dataclass(frozen=True)
class Product:
    """A 4- or 8-bit product of a graph, by the names of its tensors."""

    weight: str  # of the net's parameter
    x: str  # float32: the graph quantizes it, or multiplies it as it is
    y: str  # float32 [..., outputs], with the bias where there is one
    bias: str | None = None
    moves: tuple[NodeProto, ...] = ()  # Gather and Reshape that lay the quantized x side by side, in order


def products(model: onnx.ModelProto) -> list[Product]:
    """Every 4- and 8-bit product of a graph, whichever target's operators it is made of."""
    makers = {name: node for node in model.graph.node for name in node.output}
    return [found for node in model.graph.node if (found := _product(node, makers)) is not None]


def counted(graph: Path) -> int:
    """How many 4- and 8-bit products a graph has."""
    return len(products(onnx.load(graph, load_external_data=False)))


def _product(node: NodeProto, makers: Mapping[str, NodeProto]) -> Product | None:
    """cpu: MatMulNBits, MatMulIntegerToFloat. portable: DequantizeLinear and MatMul; MatMulInteger and its scales."""
    names = [*node.input, "", "", "", ""]
    if node.op_type == "MatMulNBits":
        y = node.output[0].removesuffix(".main")  # to which a correction is added
        return Product(names[1].removesuffix(".q"), names[0], y, names[5] or None)
    if node.op_type in ("MatMulIntegerToFloat", "MatMulInteger"):
        weight, y = names[1].removesuffix(".int8"), node.output[0].removesuffix(".int32").removesuffix(".steps")
        x, moves = names[0], []
        codes = makers.get(makers[x].input[0]) if makers[x].op_type == "Reshape" else makers[x]
        if codes is not None and codes.op_type == "QuantizeLinear":  # by rows: of x as a matrix, or of x / step
            return Product(weight, makers[codes.input[0]].input[0], y)
        while makers[x].op_type in ("Reshape", "Gather"):
            moves.append(makers[x])
            x = makers[x].input[0]
        bias = names[6] if node.op_type == "MatMulIntegerToFloat" else ""
        return Product(weight, makers[x].input[0], y, bias or None, tuple(reversed(moves)))
    dequantized = makers.get(names[1]) if node.op_type == "MatMul" else None
    if dequantized is not None and dequantized.op_type == "DequantizeLinear":
        return Product(dequantized.input[0].removesuffix(".q"), names[0], node.output[0].removesuffix(".main"))
    return None


def check(
    system: str, source: Part | GraphFile, recipe: Recipe, target: str, graph: Path, call: Trace
) -> Iterator[Diff]:
    """Compares every product of one stage's graph file.

    `source.net` is the net that `rounding.built` made for the recipe, `call` what the stage was fed: inputs and states.
    Of a stage that was released as a graph the weights are those of its file.
    A product's tensor is called as its weight; from the second product of a weight on it is numbered.
    """
    model = onnx.load(graph, load_external_data=False)
    found = products(model)
    if not found:
        return
    tensors = _run(model, graph.parent, found, call) | call
    constants = {i.name: i for i in model.graph.initializer}
    weight = _weights(source, target)

    def constant(name: str) -> Array:
        return numpy_helper.to_array(constants[name], str(graph.parent)) if name in constants else tensors[name]

    count: Counter[str] = Counter()
    for item in found:
        move = _mover(item.moves, constant)
        rule = recipe.of(source.stage.name, item.weight)
        with torch.no_grad():
            kernel = product(weight(item.weight), rule, target, move)
            expected = kernel(torch.from_numpy(tensors[item.x])).numpy()
        if item.bias is not None:
            expected = expected + constant(item.bias)
        count[item.weight] += 1
        name = item.weight if count[item.weight] == 1 else f"{item.weight}#{count[item.weight]}"
        yield compare(system, source.stage.name, "products", name, tensors[item.y], expected, bounds.PRODUCT)


def _weights(source: Part | GraphFile, target: str) -> Callable[[str], Array]:
    """Name of a weight -> its values in float32."""
    if isinstance(source, Part):
        parameters = dict(source.net.named_parameters())
        return lambda name: parameters[name].numpy()
    constants = source.model(TARGETS[target]).graph.initializers

    def values(name: str) -> Array:
        tensor = constants[name].const_value
        assert tensor is not None
        return tensor.numpy()

    return values


def _mover(moves: tuple[NodeProto, ...], constant: Callable[[str], Array]) -> Callable[[Tensor], Tensor]:
    def move(x: Tensor) -> Tensor:
        array = x.numpy()
        for node in moves:
            argument = constant(node.input[1])
            if node.op_type == "Gather":
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                array = np.take(array, argument, axis)
            else:
                sizes = [array.shape[i] if size == 0 else size for i, size in enumerate(argument)]
                array = array.reshape(sizes)
        return torch.from_numpy(array)

    return move


def _run(model: onnx.ModelProto, folder: Path, found: list[Product], call: Trace) -> Trace:
    """What the products of a graph read and give in one call: its copy has them as outputs."""
    values = {value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
    floats = {name for item in found for name in (item.x, item.y)} - values
    indices = {node.input[1] for item in found for node in item.moves} - values
    for names, kind in ((floats, onnx.TensorProto.FLOAT), (indices, onnx.TensorProto.INT64)):
        model.graph.output.extend(helper.make_tensor_value_info(name, kind, None) for name in sorted(names))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in {**AS_WRITTEN, _FOLDER: str(folder)}.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names_out = sorted(
        {name for item in found for name in (item.x, item.y)} - {v.name for v in model.graph.input} | indices
    )
    return dict(zip(names_out, session.run(names_out, call), strict=True))
