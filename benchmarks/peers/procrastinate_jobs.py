"""Jobs of procrastinate: `python procrastinate_jobs.py --jobs N`, with the database in `BENCHMARK_DSN`.

Defers jobs that do nothing, and lets one worker drain the queue. Prints what a load generator prints.
"""

import argparse
import asyncio
import json
import os
import sys
import time

import procrastinate  # type: ignore[import-not-found] # in an environment of its own

CONCURRENCY = 20


async def nothing() -> None:
    """Do nothing, as the fake agents."""


async def measure(jobs: int) -> None:
    """Fill the queue, drain it, and print the jobs a second."""
    connector = procrastinate.PsycopgConnector(conninfo=os.environ["BENCHMARK_DSN"], max_size=CONCURRENCY)
    app = procrastinate.App(connector=connector)
    task = app.task(nothing, name="nothing")
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await task.batch_defer_async(*({} for _ in range(jobs)))
        print(json.dumps({"event": "started"}), flush=True)
        begin = time.perf_counter()
        await app.run_worker_async(concurrency=CONCURRENCY, wait=False, install_signal_handlers=False)
        seconds = time.perf_counter() - begin
        rows = await connector.execute_query_all_async(
            "SELECT count(*) AS done FROM procrastinate_jobs WHERE status = 'succeeded'"
        )
    done = rows[0]["done"]
    if done != jobs:
        sys.exit(f"{jobs} jobs deferred, {done} succeeded in the database")
    print(json.dumps({"event": "finished", "done": done, "jobs_per_second": done / seconds}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, required=True, help="how many")
    asyncio.run(measure(parser.parse_args().jobs))
