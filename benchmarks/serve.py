"""Fifty clients at once for a minute: every answer right, no error, memory flat.

Run it with `python benchmarks/serve.py --index DIR --mix MIX.wav`. Each client searches with a
moment of its own, again and again; what it gets is compared with what it got alone. Memory is what
the process has for itself (the index is mapped, and shared with the system's cache).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil

WAIT_S = 600.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True)
    parser.add_argument("--mix", required=True, type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--refine", action="store_true", help="Starts to milliseconds.")
    given = parser.parse_args()
    command = [sys.executable, "-m", "phalar.cli", "serve", "--index", given.index, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert server.stdout is not None
    address = re.search(r"http://\S+", server.stdout.readline())
    if address is None:
        raise SystemExit("the server does not start")
    content = given.mix.read_bytes()

    def ask(client: httpx.Client, start_s: float) -> str:
        answer = client.post(
            f"{address[0]}/api/search",
            files={"files": ("mix.wav", content)},
            data={"start_s": start_s, "refine": given.refine},
        )
        answer.raise_for_status()
        return answer.text

    starts_s = [0.5 * number for number in range(10)]
    with httpx.Client(timeout=WAIT_S) as client:
        alone = {start_s: ask(client, start_s) for start_s in starts_s}
    end = time.monotonic() + given.seconds
    took_s: list[float] = []
    faults: list[str] = []

    def work(number: int) -> None:
        start_s = starts_s[number % len(starts_s)]
        with httpx.Client(timeout=WAIT_S) as client:
            while time.monotonic() < end:
                start = time.monotonic()
                try:
                    if ask(client, start_s) != alone[start_s]:
                        faults.append("wrong answer")
                except httpx.HTTPError as error:
                    faults.append(repr(error))
                took_s.append(time.monotonic() - start)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(given.clients)]
    for thread in threads:
        thread.start()
    memory, process = [], psutil.Process(server.pid)
    while time.monotonic() < end:
        memory.append(process.memory_full_info().uss / 2**20)
        time.sleep(min(5.0, given.seconds / 6))
    for thread in threads:
        thread.join()
    memory.append(process.memory_full_info().uss / 2**20)
    server.send_signal(signal.SIGINT)
    server.wait(WAIT_S)
    print(
        f"{given.clients} clients, {given.seconds:g} s: {len(took_s)} answers, {len(faults)} faults"
    )
    print(f"an answer took {statistics.median(took_s):.1f} s, at most {max(took_s):.1f} s")
    print("memory, MB: " + " ".join(f"{each:.0f}" for each in memory))
    for fault in sorted(set(faults)):
        print(fault)


if __name__ == "__main__":
    main()
