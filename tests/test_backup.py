"""A backup taken of a platform at work, and the platform that is made from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.backup import keep_newest
from config.serve import Platform
from tests.running import ROOT, free_port, manage
from tests.usage import record

pytestmark = [pytest.mark.xdist_group("crashes"), pytest.mark.timeout(900)]

CARD = {"model": "*", "input": "1", "cached_input": "1", "cache_write": "1"}
BATCH = 100


@dataclass
class Taken:
    """A backup, and the records that were acknowledged before and after it."""

    folder: Path
    data: Path
    sent: list[list[Any]]
    keys: dict[str, str]


def client(platform: Platform, key: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"{platform.url}/api/v1/",
        headers={"Authorization": f"Bearer {key}"},
        timeout=200,
        trust_env=False,
    )


def call(api: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    answer = api.request(method, path, json=body)
    assert answer.status_code < 300, answer.text
    return answer.json()


def restore(source: Path, data: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"DATA": str(data), "DJANGO_SETTINGS_MODULE": "config.settings"}
    return subprocess.run(
        [sys.executable, "manage.py", "restore", "--from", str(source)],
        cwd=ROOT,
        env=os.environ | own | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        for variable in ("DATABASE_URL", "BROKER_URL", "SECRET_KEY"):
            patch.delenv(variable, raising=False)
        yield Path(name)


@pytest.fixture(scope="module")
def taken(folder: Path) -> Taken:
    """Usage is posted before the backup, while it is taken, and after it."""
    data, backup = folder / "old", folder / "backup"
    sent: list[list[Any]] = []
    with Platform(data, port=free_port()) as platform:
        keys = {
            role: manage(
                platform, "issue_key", "--role", role, "--name", "n", "--operator", "t", "--test"
            ).strip()
            for role in ("operator", "gateway")
        }
        with client(platform, keys["operator"]) as api, client(platform, keys["gateway"]) as to:
            call(api, "POST", "test-clock", {"now": "2026-06-10T00:00:00Z"})
            card = [{**CARD, "output": "1", "reasoning": "1"}]
            body = {"effective_from": "2026-01-01T00:00:00Z", "weights": card}
            call(api, "PUT", "rate-cards/standard", body)
            plan = {"name": "P", "price": "9.90", "allowance": "20000", "rate_card": "standard"}
            call(api, "PUT", "plans/small", plan)
            people = [
                {"external_id": f"s-{n}", "subjects": [f"user-{n}"], "plan": "small"}
                for n in range(5)
            ]
            call(api, "POST", "subscribers/batch", people)
            call(api, "POST", "test-clock", {"now": "2026-06-10T05:00:00Z"})

            def post() -> None:
                batch = [
                    record(
                        f"r-{len(sent)}-{n}",
                        subject=f"user-{n % 5}",
                        occurred_at="2026-06-10T04:00:00Z",
                        input_tokens=10,
                        output_tokens=n,
                    )
                    for n in range(BATCH)
                ]
                assert call(to, "POST", "usage-records", batch)["accepted"] == BATCH
                sent.append(batch)

            post()
            over = threading.Event()

            def go_on() -> None:
                while not over.is_set():
                    post()

            poster = threading.Thread(target=go_on)
            poster.start()
            try:
                manage(platform, "backup", "--to", str(backup))
            finally:
                over.set()
                poster.join()
            post()
    return Taken(backup, data, sent, keys)


def test_a_platform_made_from_a_backup_takes_again_what_it_misses_and_nothing_twice(
    taken: Taken, folder: Path
) -> None:
    data = folder / "new"
    done = restore(taken.folder, data)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓" in done.stdout
    assert "✗" not in done.stdout
    assert (data / "secret_key").read_text() == (taken.data / "secret_key").read_text()
    # What is there is not written over.
    refused = restore(taken.folder, data)
    assert refused.returncode != 0
    assert "restore into an empty one" in refused.stderr
    with (
        Platform(data, port=free_port()) as platform,
        client(platform, taken.keys["gateway"]) as to,
        client(platform, taken.keys["operator"]) as api,
    ):
        answers = [call(to, "POST", "usage-records", batch) for batch in taken.sent]
        # All of a batch came before the snapshot, or none of it.
        assert {answer["accepted"] for answer in answers} == {0, BATCH}
        assert (answers[0]["duplicates"], answers[-1]["accepted"]) == (BATCH, BATCH)
        for batch in taken.sent:
            assert call(to, "POST", "usage-records", batch)["duplicates"] == BATCH
        for n in range(5):
            used = sum(
                float(bucket["used"])
                for bucket in call(api, "GET", f"subscribers/s-{n}/balance")["buckets"]
            )
            assert used == sum(
                item["input_tokens"] + item["output_tokens"]
                for batch in taken.sent
                for item in batch
                if item["subject"] == f"user-{n}"
            )
        manage(platform, "reconcile")


def test_what_is_no_whole_backup_of_this_platform_leaves_the_database_as_empty_as_it_was(
    taken: Taken, folder: Path
) -> None:
    def damage(copy: Path) -> None:
        file = max((copy / "database").iterdir(), key=lambda path: path.stat().st_size)
        file.write_bytes(file.read_bytes()[:-1])

    def lose(copy: Path) -> None:
        (copy / "database" / "toc.dat").unlink()

    def change(copy: Path, **said: Any) -> None:
        manifest = json.loads((copy / "manifest.json").read_text())
        (copy / "manifest.json").write_text(json.dumps(manifest | said))

    def miscount(copy: Path) -> None:
        rows = json.loads((copy / "manifest.json").read_text())["rows"]
        change(copy, rows=rows | {"metering_usagerecord": 1})

    cases = [
        (damage, "is damaged"),
        (lose, "is missing"),
        (lambda copy: (copy / "manifest.json").unlink(), "holds no backup"),
        (lambda copy: (copy / "manifest.json").write_text("{"), "cannot be read"),
        (lambda copy: change(copy, migrations=[["billing", "9999_later"]]), "newer version"),
        (lambda copy: change(copy, server=99), "PostgreSQL 99"),
        (miscount, "metering_usagerecord"),
    ]
    for nr, (spoil, says) in enumerate(cases):
        copy = folder / f"spoilt-{nr}"
        shutil.copytree(taken.folder, copy)
        spoil(copy)
        refused = restore(copy, folder / "empty")
        assert refused.returncode != 0
        assert says in refused.stderr, refused.stderr
    copy = folder / "keyless"
    shutil.copytree(taken.folder, copy)
    (copy / "secret_key").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"]["secret_key"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    other = restore(copy, folder / "empty", SECRET_KEY="another" * 9)
    assert "SECRET_KEY is not the one" in other.stderr
    right = (taken.folder / "secret_key").read_text()
    done = restore(copy, folder / "empty", SECRET_KEY=right)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_owner_can_read_a_backup_and_only_the_newest_are_kept(taken: Taken) -> None:
    assert taken.folder.stat().st_mode & 0o077 == 0
    assert (taken.folder / "secret_key").stat().st_mode & 0o077 == 0
    shelf = taken.folder.parent / "shelf"
    for day in (3, 1, 2):
        copy = shelf / str(day)
        copy.mkdir(parents=True)
        manifest = json.loads((taken.folder / "manifest.json").read_text())
        at = f"2026-06-0{day}T00:00:00+00:00"
        (copy / "manifest.json").write_text(json.dumps(manifest | {"taken_at": at}))
    (shelf / "4.partial").mkdir()
    assert keep_newest(shelf, 2) == [shelf / "1"]
    assert sorted(path.name for path in shelf.iterdir()) == ["2", "3", "4.partial"]
