"""A process of its own that sends what gateways send: what it remembers, no other knows of.

`python -m tests.sender`, on the database named by DATABASE_URL. Each line of its input is a JSON
object with a key, a path and bodies; each line of its output the [status, body] of their answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent


class Sender:
    """The process, seen from the test."""

    def __init__(self, database_url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.sender"],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database_url, "BROKER_URL": "memory://"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(200)
        self.process.stdout.close()

    def send(self, key: str, *bodies: Any, path: str = "usage-records") -> list[Any]:
        """The bodies of the answers, all of which have to be 200 or 201."""
        assert self.process.stdin
        assert self.process.stdout
        order = {"key": key, "path": f"/api/v1/{path}", "bodies": bodies}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answers = json.loads(self.process.stdout.readline())
        assert {status for status, _ in answers} <= {200, 201}, answers
        return [body for _, body in answers]


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    from django.test import Client

    client = Client()
    for line in sys.stdin:
        said = json.loads(line)
        answers = []
        for body in said["bodies"]:
            answer = client.generic(
                "POST",
                said["path"],
                json.dumps(body),
                "application/json",
                headers={"Authorization": f"Bearer {said['key']}", "Host": "localhost"},
            )
            answers.append([answer.status_code, json.loads(answer.content)])
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
