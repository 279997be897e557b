"""Train without the flow: `python -m phalar.train --params params.yaml --data data`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from phalar import params, runlog
from phalar.train import run
from phalar.train.launch import TrainingError

logger = logging.getLogger("phalar.train")


def main() -> int:
    """Launch a training and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--data", type=Path, help="root of all data; default: data beside it")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="only go on with an interrupted training; where its inputs differ, say how and stop",
    )
    arguments = parser.parse_args()
    runlog.set_up_logging()
    try:
        settings = params.load(arguments.params)
        paths = settings.paths if arguments.data is None else params.Paths(arguments.data)
        summary = run(arguments.params, settings, paths, resume=arguments.resume)
    except (ValueError, OSError, TrainingError) as error:
        logger.error("%s", error)
        return 1
    except KeyboardInterrupt:
        logger.error("interrupted; run again to go on at the last checkpoint")
        return 130
    accuracy = ", ".join(f"{name} {100 * v:.1f} %" for name, v in summary.validation.items())
    logger.info("%s: best at step %d: %s", summary.model, summary.best_step, accuracy)
    return 0


if __name__ == "__main__":
    sys.exit(main())
