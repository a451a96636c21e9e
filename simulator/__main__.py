"""The simulator's process: ``python -m simulator``."""

import argparse
import asyncio
import json
import os
import resource
import signal
from pathlib import Path

from aiohttp import web

from simulator.app import create_app
from simulator.settings import Settings

BACKLOG = 4096
OPEN_FILES = 65_536
SECONDS_TO_CLOSE = 0.05


def main() -> None:
    """Serve until SIGTERM or SIGINT, then exit with code 0 at once, whatever is in flight."""
    parser = _parser()
    args = parser.parse_args()
    try:
        settings = Settings(latency=args.latency, tokens_per_second=args.tokens_per_second, error_rate=args.error_rate)
    except ValueError as error:
        parser.error(str(error))
    _allow_many_connections()
    try:
        asyncio.run(_serve(args, settings))
    except OSError as error:
        parser.exit(1, f"simulator: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="An OpenAI-compatible LLM simulator. Model names such as sim-429 or sim-hang provoke failures; "
        "GET /v1/models lists them and simulator/behaviour.py explains them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 picks a free one")
    parser.add_argument(
        "--latency",
        type=float,
        default=0.2,
        metavar="SECONDS",
        help="time before each answer starts, failures included",
    )
    parser.add_argument(
        "--tokens-per-second", type=float, metavar="N", help="speed of the output after the latency; no limit if unset"
    )
    parser.add_argument(
        "--error-rate", type=float, default=0.0, metavar="P", help="probability (0 to 1) that a call answers 500"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="makes the choice of calls that fail repeatable")
    parser.add_argument(
        "--ready-file", type=Path, metavar="FILE", help='file to write {"url", "port", "pid"} to once it serves'
    )
    return parser


async def _serve(args: argparse.Namespace, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        create_app(settings, seed=args.seed),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=SECONDS_TO_CLOSE,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, args.host, args.port, backlog=BACKLOG)
        await site.start()
        url = f"http://{_in_url(args.host)}:{site.port}/v1"
        if args.ready_file:
            _write_ready_file(args.ready_file, url, site.port)
        print(f"simulator is serving {url}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _write_ready_file(path: Path, url: str, port: int) -> None:
    # Whoever polls for the file must never see half of it.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps({"url": url, "port": port, "pid": os.getpid()}), encoding="utf-8")
    draft.replace(path)


def _allow_many_connections() -> None:
    """Raise the soft limit of open files, which is often 1,024: too few for 1,000 connections and the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
