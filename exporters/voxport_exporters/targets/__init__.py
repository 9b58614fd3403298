"""What a bundle is exported for, and what its graphs may use there."""

from dataclasses import dataclass

OPSET = 20  # ai.onnx; the newest that onnxruntime and TensorRT 10 both take whole
OPSET_INT4 = 21  # the first with blocks in DequantizeLinear; its other operators are those of 20 with more types
IR_VERSION = 10
CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class Target:
    """`domains`: the operator sets that a graph may use; "" is ai.onnx."""

    name: str
    domains: frozenset[str]

    @property
    def contrib(self) -> bool:
        """Whether onnxruntime's own operators are allowed."""
        return CONTRIB in self.domains


TARGETS = {
    "cpu": Target("cpu", frozenset({"", CONTRIB})),
    "portable": Target("portable", frozenset({""})),  # TensorRT, NPUs, browsers
}
