"""A process that records until it is killed, or until the disk will not take more.

``python endless_recording.py FOLDER [FILE_LIMIT_BYTES]`` writes to stdout, for every frame put, its index and
the monotonic clock after it; when recording stops by itself, a line of JSON to stderr, and it exits with 0.
"""

from __future__ import annotations

import json
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np

from stream.codecs import encode
from stream.frame import Encoding, Frame, Gap, SeriesHeader
from stream.record import Recorder

SHAPE = (128, 128)
U2 = np.dtype("<u2")
COUNTS = np.random.default_rng(4).poisson(20, SHAPE).astype(U2)
PROGRESS = struct.Struct("<qq")
GAP_EVERY = 50
FRAME_S = 0.0005


def main(folder: Path, limit_bytes: int | None) -> None:
    if limit_bytes is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    payload = memoryview(encode(COUNTS, "bslz4"))
    encoding = Encoding(SHAPE, U2, "bslz4")
    recorder = Recorder(folder, min_free_mib=0)
    recorder.put(SeriesHeader(1, SHAPE, U2, frame_period_s=FRAME_S))
    index = put = 0
    while recorder.alarm is None:
        if index % GAP_EVERY == GAP_EVERY - 1:
            recorder.put(Gap(1, index, 1, "wire"))
        else:
            recorder.put(Frame(1, index, index, time.monotonic_ns(), payload, encoding))
            put += 1
            sys.stdout.buffer.write(PROGRESS.pack(index, time.monotonic_ns()))
            sys.stdout.buffer.flush()
        index += 1
        time.sleep(FRAME_S)  # the camera
    for later in range(10):  # the camera goes on
        recorder.put(Frame(1, index + later, None, time.monotonic_ns(), payload, encoding))
        put += 1
    recorder.close()
    said = {
        "put": put,
        "frames": recorder.frames,
        "unrecorded": recorder.unrecorded,
        "alarm": recorder.alarm,
        "path": str(recorder.path) if recorder.path else None,
    }
    print(json.dumps(said), file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
