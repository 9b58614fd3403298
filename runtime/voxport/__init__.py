"""voxport runs exported speech models with numpy and onnxruntime.

voice = voxport.load("bundle")      # the class of the bundle's system, here a Converter
stream = voice.stream()
out = stream.feed(samples)          # float32 in [-1, 1] at voice.sample_rate
out = stream.flush()
"""

from voxport.bundle import load

__version__ = "0.1.0"
__all__ = ["load"]
