"""Pages of 2 MB for weights. A step of a language model streams all of them, and finding 4 kB pages costs it a tenth
(VyvoTTS LFM2-350M 11 %, Qwen3-0.6B 11 %, Qwen3-TTS talker 9 %, predictor 19 %; AMD Zen 4, int4).

onnxruntime packs weights into memory it takes from malloc, which Linux backs with small pages unless it is told.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HUGE = 1 << 21
COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1: now, whatever the system's setting; earlier kernels refuse it
MAPS = Path("/proc/self/maps")

Span = tuple[int, int]  # addresses [start, stop)


@contextmanager
def huge() -> Iterator[None]:
    """What is allocated within, and still held at the end, comes to lie in huge pages as far as it fills any.

    A request, not a promise: without effect where the system has no such call or no such pages.
    """
    before = anonymous()
    yield
    for start, stop in added(before, anonymous()):
        first, end = -(-start // HUGE) * HUGE, stop // HUGE * HUGE
        if first < end:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), COLLAPSE)


def anonymous() -> list[Span]:
    """The writable memory of this process that belongs to no file, ascending; nothing where there is no /proc."""
    if not MAPS.exists():
        return []
    spans = []
    for line in MAPS.read_text().splitlines():
        span, access, _, _, _, *name = line.split()
        if access.startswith("rw") and (not name or name[0].startswith(("[heap", "[anon"))):
            start, stop = (int(x, 16) for x in span.split("-"))
            spans.append((start, stop))
    return spans


def added(before: list[Span], after: list[Span]) -> Iterator[Span]:
    """What `after` holds and `before` does not; both ascending, without overlap."""
    for start, stop in after:
        for old_start, old_stop in before:
            if old_stop <= start or stop <= old_start:
                continue
            if start < old_start:
                yield start, old_start
            start = max(start, old_stop)
        if start < stop:
            yield start, stop
