"""Entry of a training process: `python -m phalar.train.worker`, by itself or under torchrun."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType

from phalar import params, runlog
from phalar.train.launch import LOST_CONTACT, STOPPED, watch_launcher


def main() -> int:
    """Train, and leave one line and a traceback where the launcher looks if that fails."""
    parser = argparse.ArgumentParser(
        description="A training process; see `python -m phalar.train`."
    )
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--errors", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    rank = int(os.environ.get("RANK", "0"))
    runlog.set_up_logging()
    if rank:
        logging.getLogger("phalar").setLevel(logging.ERROR)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    watch_launcher()
    try:
        # Imported late: torch takes seconds, in which a signal must not be lost.
        from phalar.train.loop import train

        settings = params.load(arguments.params)
        paths = params.Paths(arguments.data)
        done = train(
            settings,
            paths,
            params_path=arguments.params,
            stop=stop.is_set,
            resume=arguments.resume,
        )
    except Exception as error:  # noqa: BLE001 - the launcher tells it
        _leave_error(arguments.errors / f"error-rank{rank}.txt", error)
        return 1
    return 0 if done else STOPPED


def _leave_error(path: Path, error: Exception) -> None:
    """Write one line that says what happened, and the traceback below it."""
    line = " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ == "OutOfMemoryError":
        line += "; lower train.batch_pairs, or set train.recompute_clips"
    if not isinstance(error, ValueError | OSError | FloatingPointError):
        line = f"train: {type(error).__name__}: {line}"
    # gloo and NCCL say so in words alone.
    if isinstance(error, RuntimeError) and any(
        word in line for word in ("onnection", "NCCL", "gloo", "Gloo", "peer")
    ):
        line = f"train: {LOST_CONTACT} ({line})"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([line, "", *traceback.format_exception(error)]))


if __name__ == "__main__":
    sys.exit(main())
