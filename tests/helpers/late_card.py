"""A card that does its work as late, or as early, as streams and events allow: what is not waited for goes wrong.

Stands in for CuPy, with the few of its functions that `stream.device.Device` calls, as CuPy 14 declares them. Work is
queued in its stream and done when somebody waits for it; streams in `eager` (numbered as they are made) run ahead as
far as the events let them. What a copy beside the current stream reads or writes must still be held when it is done:
CuPy's pools would have given that memory to somebody else.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from engines.gpu import Bound
from engines.runtime import Engine
from tests.helpers.host_device import HostArray, HostDevice


class Point:
    """A place in a stream's queue."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.done = stream, False


class Stream:
    def __init__(self, card: LateCard, number: int) -> None:
        self.ptr, self._card = number + 1, card
        self.eager = number in card.eager
        self.queue: deque[Point | Callable[[], None]] = deque()
        card.streams.append(self)

    def put(self, work: Point | Callable[[], None]) -> None:
        self.queue.append(work)
        for stream in self._card.streams * 2:  # the second time behind what the first time reached
            while stream.eager and stream.step(forced=False):
                pass

    def step(self, forced: bool) -> bool:
        """Do what is first in the queue; forced, also what it waits for."""
        if not self.queue:
            return False
        first = self.queue[0]
        if isinstance(first, Point) and first.stream is not self and not first.done:
            if not forced:
                return False
            first.stream.reach(first)
        self.queue.popleft()
        if isinstance(first, Point):
            first.done = first.done or first.stream is self
        else:
            first()
        return True

    def reach(self, point: Point) -> None:
        while not point.done:
            self.step(forced=True)

    def synchronize(self) -> None:
        while self.step(forced=True):
            pass

    def use(self) -> None:
        self._card.current = self

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if event.point is not None:
            self.put(event.point)


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.timed, self.point = not disable_timing, None

    def record(self, stream: Stream) -> None:
        self.point: Point | None = Point(stream)
        stream.put(self.point)

    def synchronize(self) -> None:
        if self.point is not None:
            self.point.stream.reach(self.point)


class CardArray(HostArray):
    """A device array; views are views, and everything else is queued."""

    card: Any = None

    def __array_finalize__(self, source: Any) -> None:
        self.card = getattr(source, "card", None)

    @property
    def data(self) -> Any:  # type: ignore[override]
        def copy_from_device_async(source: Any, size: int, stream: Stream) -> None:
            assert source.array.nbytes == size <= self.nbytes
            stream.put(lambda: np.copyto(self.ravel(), source.array.ravel()))

        return SimpleNamespace(array=self, copy_from_device_async=copy_from_device_async)

    def fill(self, value: Any) -> None:
        self.card.current.put(lambda: np.ndarray.fill(self, value))

    def set(self, arr: np.ndarray, stream: Stream | None = None) -> None:
        assert (arr.dtype, arr.shape) == (self.dtype, self.shape)
        assert self.flags.c_contiguous
        pinned = self.card.is_pinned(arr)  # what is not is copied aside at once
        source = self.card.later(arr, stream) if pinned else self.card.later(arr.copy(), None)
        target = self.card.later(self, stream)
        (stream or self.card.current).put(lambda: np.copyto(target(), source()))

    def get(
        self, stream: Stream | None = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> Any:
        assert out is None or (out.dtype, out.shape) == (self.dtype, self.shape)
        assert blocking or (self.flags.c_contiguous and self.card.is_pinned(out))
        out = np.full(self.shape, 0xA5).astype(self.dtype) if out is None else out
        target, source = self.card.later(out, stream), self.card.later(self, stream)
        (stream or self.card.current).put(lambda: np.copyto(target(), source()))
        if blocking:
            (stream or self.card.current).synchronize()
        return out

    def dot(self, b: Any, out: Any = None) -> Any:
        out = self.card.empty((self.shape[0], b.shape[1]), self.dtype) if out is None else out
        assert self.ndim == b.ndim == out.ndim == 2
        assert out.flags.c_contiguous
        self.card.matmul(self, b, out)
        return out


class LateCard(SimpleNamespace):
    """The modules `cupy` and `cupyx` in one."""

    __version__ = "14"

    def __init__(self, eager: frozenset[int] = frozenset()) -> None:
        self.eager, self.streams, self.pinned = eager, [], []
        self.host = HostDevice()
        properties = {"name": b"late card", "major": 9, "minor": 0, "totalGlobalMem": 1 << 30}
        runtime = SimpleNamespace(
            getDeviceCount=lambda: 1, getDeviceProperties=lambda index: properties,
            driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000, memGetInfo=lambda: (0, 0),
        )  # fmt: skip
        self.cuda = SimpleNamespace(
            Stream=lambda non_blocking=False: Stream(self, len(self.streams)), Event=Event, runtime=runtime,
            Device=lambda index: SimpleNamespace(use=lambda: None), get_elapsed_time=self.elapsed_ms,
            alloc_pinned_memory=lambda size: self.empty_pinned(size, np.uint8),
        )  # fmt: skip
        self.current: Stream = Stream(self, -1)

    def RawModule(self, *, code: str, options: tuple[str, ...] = ()) -> Any:
        def function(name: str) -> Any:
            return lambda grid, block, args: self.current.put(
                lambda: self.host.launch(name, grid, block, *args)
            )

        return SimpleNamespace(compile=lambda: None, get_function=function)

    def elapsed_ms(self, begun: Event, ended: Event) -> float:
        for event in (begun, ended):
            assert event.timed
            assert event.point is not None
            assert event.point.done, "an event's time was asked for before it came"
        return 1.0

    def empty(self, shape: Any, dtype: Any) -> CardArray:
        plain = self.host.empty(shape, dtype)
        array = plain.view(CardArray)
        array.card, array.guard = self, plain.guard
        return array

    def zeros(self, shape: Any, dtype: Any) -> CardArray:
        return self._filled(shape, dtype, 0)

    def ones(self, shape: Any, dtype: Any) -> CardArray:
        return self._filled(shape, dtype, 1)

    def _filled(self, shape: Any, dtype: Any, value: int) -> CardArray:
        array = self.empty(shape, dtype)
        array.fill(value)
        return array

    def asarray(self, values: np.ndarray) -> CardArray:
        array = self.empty(values.shape, values.dtype)
        array.set(values)
        return array

    def ascontiguousarray(self, a: CardArray) -> CardArray:
        if a.flags.c_contiguous:
            return a
        array = self.empty(a.shape, a.dtype)
        self.current.put(lambda: np.copyto(array, a))
        return array

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        plain = [x.view(np.ndarray) for x in (a, b, out)]
        self.current.put(lambda: np.matmul(plain[0], plain[1], out=plain[2]))

    def empty_pinned(self, shape: Any, dtype: Any) -> np.ndarray:
        array = np.full(shape, 0xA5, np.uint8) if dtype == np.uint8 else np.full(shape, -1).astype(dtype)
        self.pinned.append(weakref.ref(array))
        return array

    def is_pinned(self, array: np.ndarray) -> bool:
        self.pinned = [one for one in self.pinned if one() is not None]
        root = _root(array)
        return any(one() is root for one in self.pinned)

    def later(self, array: np.ndarray, stream: Stream | None) -> Callable[[], np.ndarray]:
        """The array when its turn comes; beside the current stream, only if somebody still holds it then."""
        if stream in (None, self.current):
            return lambda: array
        return _if_still_held(array)


def _if_still_held(array: np.ndarray) -> Callable[[], np.ndarray]:
    held, address = weakref.ref(_root(array)), array.ctypes.data
    shape, dtype, size = array.shape, array.dtype, array.nbytes

    def found() -> np.ndarray:
        assert held() is not None, "memory was given back before a copy was done with it"
        return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)

    return found


def _root(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class LateEngine:
    """An engine of the CPU whose runs wait in the card's current stream."""

    def __init__(self, card: LateCard, engine: Engine) -> None:
        self.manifest, self._card, self._engine = engine.manifest, card, engine
        self._bound: dict[tuple[int, ...], Bound] = {}

    def bind(self, shape: Any) -> Bound:
        if shape not in self._bound:
            host, card = self._engine.bind(shape), self._card
            inputs, outputs = card.empty(shape, "f4"), card.empty(host.output.shape, "f4")

            def run() -> None:
                host.input[...] = inputs
                host.enqueue()
                outputs[...] = host.output

            self._bound[shape] = Bound(inputs, outputs, lambda: card.current.put(run))
        return self._bound[shape]
