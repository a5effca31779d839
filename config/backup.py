"""A copy of everything that must outlive the machine, and the way back from it.

A backup is a folder that only its owner can read:

    manifest.json    when it was taken, of what version, the rows of each table, a digest a file
    database/        what pg_dump writes of one snapshot: the one whose rows were counted
    fapiao/          files exchanged with the tax platform, where the default provider keeps them
    secret_key       Django's, where DATA holds it: what it encrypted is worthless without it

The broker is not in it: rows are the queue. What was acknowledged after the snapshot is not in it
either: gateways send that again, and what is here already answers as a duplicate.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from psycopg import sql

from config import embedded

FORMAT = 1
MANIFEST = "manifest.json"
DATABASE = "database"
FAPIAO = "fapiao"
KEY = "secret_key"


class BackupError(RuntimeError):
    """It cannot be taken, or not be restored; the message says what to do."""


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself. `key` tells secret keys apart and gives none away."""

    format: int
    taken_at: str
    server: int  # major version of PostgreSQL
    migrations: list[list[str]]
    rows: dict[str, int]
    files: dict[str, str]
    key: str


# Taking one --------------------------------------------------------------------------------------


def take(folder: Path, *, at: dt.datetime, say: Callable[[str], None]) -> Manifest:
    """Write a backup into `folder`, which must not exist: it is there when it is whole.

    Beside a platform at work: nobody waits for it. Raises BackupError.
    """
    if folder.exists():
        raise BackupError(f"{folder} exists: name a folder that does not")
    draft = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SELECT pg_export_snapshot()")
        [(snapshot,)] = cursor.fetchall()
        say("Copying the database")
        arguments = ["--format=directory", f"--jobs={_jobs()}", f"--snapshot={snapshot}"]
        private = ["--no-owner", "--no-privileges", "--no-sync", f"--file={draft / DATABASE}"]
        _run("pg_dump", *arguments, *private)
        say("Counting what was copied")
        rows = _rows()
        applied = MigrationRecorder(connection).applied_migrations()
    files = Path(settings.FAPIAO_FOLDER)
    if files.is_dir():
        shutil.copytree(files, draft / FAPIAO)
    if not os.environ.get("SECRET_KEY"):
        _write(draft / KEY, settings.SECRET_KEY)
    manifest = Manifest(
        format=FORMAT,
        taken_at=at.isoformat(),
        server=_server(),
        migrations=sorted([app, name] for app, name in applied),
        rows=rows,
        files=_digests(draft),
        key=_mark_of(settings.SECRET_KEY),
    )
    _write(draft / MANIFEST, json.dumps(asdict(manifest), indent=1))
    _to_disk(draft)
    draft.rename(folder)
    _sync(folder.parent)
    return manifest


def keep_newest(folder: Path, count: int) -> list[Path]:
    """Delete all but the newest whole backups in a folder; answers what was deleted."""
    whole = [one for one in folder.iterdir() if (one / MANIFEST).is_file()]
    whole.sort(key=lambda one: read(one).taken_at, reverse=True)
    for one in whole[count:]:
        shutil.rmtree(one)
    return whole[count:]


# The way back ------------------------------------------------------------------------------------


def read(folder: Path) -> Manifest:
    """What a backup says of itself. Raises BackupError."""
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text()))
    except FileNotFoundError:
        raise BackupError(f"{folder} holds no backup: there is no {MANIFEST} in it") from None
    except (ValueError, TypeError) as error:
        raise BackupError(f"{folder / MANIFEST} cannot be read: {error}") from None
    if manifest.format != FORMAT:
        raise BackupError(f"{folder} was written by another version of this command")
    return manifest


def restore(folder: Path, *, say: Callable[[str], None]) -> Manifest:
    """Fill this installation's empty database from a backup and bring it up to this version.

    Nothing is overwritten: a database that holds anything, or one that others are connected to, is
    refused. Broken off, it can be begun again. Raises BackupError.
    """
    manifest = read(folder)
    say("Checking the files")
    if missing := manifest.files.keys() - (found := _digests(folder)).keys():
        raise BackupError(f"{folder} is not whole: {min(missing)} is missing")
    if changed := {name for name, digest in manifest.files.items() if found[name] != digest}:
        raise BackupError(f"{folder} is damaged: {min(changed)} is not as it was written")
    _accept(folder, manifest)
    try:
        say("Filling the database")
        arguments = ["--exit-on-error", "--no-owner", "--no-privileges", f"--jobs={_jobs()}"]
        _run("pg_restore", *arguments, f"--dbname={_name()}", str(folder / DATABASE))
        say("Counting what came")
        came = _rows()
        if lost := sorted(name for name, rows in manifest.rows.items() if rows != came.get(name)):
            raise BackupError(f"these tables came with other rows than they had: {lost}")
    except BaseException:
        _empty()
        raise
    if (folder / KEY).is_file():
        _write(settings.DATA / KEY, (folder / KEY).read_text())
    if (folder / FAPIAO).is_dir():
        shutil.copytree(folder / FAPIAO, settings.FAPIAO_FOLDER, dirs_exist_ok=True)
    say("Bringing it up to this version")
    call_command("migrate", interactive=False, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return manifest


def _accept(folder: Path, manifest: Manifest) -> None:
    """Refuse what would not be this platform's database afterwards, or spoil one that is."""
    if here := _tables():
        raise BackupError(
            f"the database holds {len(here)} tables: restore into an empty one, by another DATA or"
            " another DATABASE_URL"
        )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        [(others,)] = cursor.fetchall()
    if others:
        raise BackupError(f"{others} others are connected to the database: stop the platform first")
    if manifest.server > _server():
        raise BackupError(
            f"it was taken from PostgreSQL {manifest.server}, and this is {_server()}: restore into"
            " one as new or newer"
        )
    ours = _migrations()
    strange = [pair for pair in manifest.migrations if pair[1] not in ours.get(pair[0], pair[1:])]
    if strange:
        raise BackupError(
            f"it was taken by a newer version of the platform, which knows {min(strange)}:"
            " restore by that one"
        )
    if not (folder / KEY).is_file() and manifest.key != _mark_of(settings.SECRET_KEY):
        raise BackupError(
            "SECRET_KEY is not the one that it was taken under: set that, or nothing that was"
            " encrypted can be read"
        )


def _migrations() -> dict[str, set[str]]:
    """The names of the migrations that this version brings or once brought, by app of ours."""
    known: dict[str, set[str]] = {app: set() for app in ("subscriptions", "metering", "billing")}
    for (app, name), migration in MigrationLoader(None).disk_migrations.items():
        if app in known:
            known[app] |= {name, *(replaced for _, replaced in migration.replaces)}
    return known


# The database ------------------------------------------------------------------------------------

# Partitions are counted with their parent.
_TABLES_SQL = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY c.relname
"""


def _tables() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(_TABLES_SQL)
        return [name for (name,) in cursor.fetchall()]


def _rows() -> dict[str, int]:
    rows = {}
    with connection.cursor() as cursor:
        for name in _tables():
            cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name)))
            [(rows[name],)] = cursor.fetchall()
    return rows


def _empty() -> None:
    """Make the database as empty as it was before a restore that failed."""
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA public CASCADE")
        cursor.execute("CREATE SCHEMA public")


def _server() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version_num")
        [(number,)] = cursor.fetchall()
    return int(number) // 10000


def _name() -> str:
    return str(connection.settings_dict["NAME"])


def _jobs() -> int:
    return max(2, (os.cpu_count() or 2) // 2)


def _run(program: str, *arguments: str) -> None:
    """One of PostgreSQL's programs, told by its environment where the database is."""
    try:
        path = embedded.postgres_program(program, at_least=_server())
    except embedded.EmbeddedError as error:
        raise BackupError(str(error)) from None
    given = connection.settings_dict
    where = {
        "PGHOST": given["HOST"],
        "PGPORT": str(given["PORT"] or ""),
        "PGUSER": given["USER"],
        "PGPASSWORD": given["PASSWORD"],
        "PGDATABASE": _name(),
        "PGOPTIONS": "",
    }
    for option, name in (("sslmode", "PGSSLMODE"), ("sslrootcert", "PGSSLROOTCERT")):
        if option in given["OPTIONS"]:
            where[name] = given["OPTIONS"][option]
    done = subprocess.run(
        [str(path), *arguments],
        env=os.environ | {name: value for name, value in where.items() if value},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BackupError(f"{program} failed:\n{done.stderr.strip()[-2000:]}")


# Files -------------------------------------------------------------------------------------------


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file but the manifest, by its path in the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(folder))] = digest
    return found


def _mark_of(key: str) -> str:
    return hmac.digest(key.encode(), b"backup", "sha256").hex()[:16]


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _to_disk(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
