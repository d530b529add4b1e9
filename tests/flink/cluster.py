"""A Flink of one job manager and two task managers, a job server and a pool of Python workers, each a process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.flink import jars, network
from tidemark.local.processes import Process, children, listens, start, wait_until

OPENS = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.lang",
        "java.lang.reflect",
        "java.util",
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "java.net",
        "java.nio",
        "java.io",
        "java.text",
        "java.time",
        "sun.nio.ch",
        "sun.net.util",
    )
]
REST, POOL = 8081, 50_000
JOB_SERVER_JAR = "own-job-server.jar"
CONFIGURATION = """\
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: 6123
rest.address: 127.0.0.1
rest.port: {rest}
blob.server.port: 6124
taskmanager.host: 127.0.0.1
heartbeat.timeout: 8000
heartbeat.interval: 2000
taskmanager.numberOfTaskSlots: 1
taskmanager.cpu.cores: 1.0
taskmanager.memory.task.heap.size: 512m
taskmanager.memory.task.off-heap.size: 64m
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.managed.size: 128m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
jobmanager.memory.heap.size: 512m
execution.checkpointing.dir: file://{state}/checkpoints
state.checkpoints.dir: file://{state}/checkpoints
state.savepoints.dir: file://{state}/savepoints
restart-strategy.type: fixed-delay
restart-strategy: fixed-delay
restart-strategy.fixed-delay.attempts: 100
restart-strategy.fixed-delay.delay: 2 s
"""
LOG = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c %x - %m%n
"""


@dataclass
class Cluster:
    """One cluster; its files and logs in `state`.

    Attributes:
        state: Directory.
        environment: Of the Python workers.
    """

    state: Path
    environment: dict[str, str]
    job_endpoint: str = ""
    _started: dict[str, Process] = field(default_factory=dict)
    _managers: int = 0
    _secrets: int = 0
    _orphans: list[Process] = field(default_factory=list)

    def up(self, *, pool: bool = True) -> None:
        """Start everything, the pool only if asked to, and wait until two slots are free."""
        self.state.mkdir(parents=True)
        (self.state / "config").mkdir()
        (self.state / "config" / "flink-conf.yaml").write_text(CONFIGURATION.format(rest=REST, state=self.state))
        (self.state / "log4j.properties").write_text(LOG)
        entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        self._flink("job manager", "-Xmx600m", entry)
        self.start_task_manager()
        self.start_task_manager()
        if pool:
            self.start_pool()
        self._until(lambda: self.slots() == 2, "two slots")
        self._start_job_server()

    def down(self) -> None:
        """Stop what `up` and the others have started."""
        workers = self.workers() if "pool" in self._started else []
        for process in (*reversed(self._started.values()), *workers, *self._orphans):
            process.kill()

    def start_task_manager(self) -> None:
        """One more, with a slot."""
        self._managers += 1
        name = f"task manager {self._managers}"
        memory = ("-Xmx640m", "-XX:MaxDirectMemorySize=512m", "-XX:MaxMetaspaceSize=512m")
        entry = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        self._flink(name, *memory, entry, arguments=[f"-Dtaskmanager.resource-id={name.replace(' ', '-')}"])

    def busy_task_manager(self) -> str:
        """The name of the one that runs the job."""
        (job,) = self.running()
        for vertex in self.rest(f"/jobs/{job}")["vertices"]:
            details = self.rest(f"/jobs/{job}/vertices/{vertex['id']}")
            for subtask in details["subtasks"]:
                name: str = subtask["taskmanager-id"].replace("-", " ")
                if name in self._started:
                    return name
        raise AssertionError("no task manager runs the job")

    def kill_busy_task_manager(self) -> None:
        """Kill the one that runs the job."""
        self._started.pop(self.busy_task_manager()).kill()

    def busy_pids(self) -> list[int]:
        """The processes that run the job: a task manager and the Python workers."""
        return [self._started[self.busy_task_manager()].pid, *(worker.pid for worker in self.workers())]

    def start_pool(self, **more: str) -> None:
        """The pool that starts Python workers; `more` goes into their environment."""
        command = [sys.executable, "-m", "pipelines.worker_pool", f"--service_port={POOL}"]
        environment = {**os.environ, **self.environment, **more}
        self._started["pool"] = start(command, self.state / "pool.log", environment=environment, directory=Path.cwd())
        self._until(lambda: listens(POOL), "the worker pool")

    def kill_pool(self) -> None:
        """Kill the pool alone: its workers go on until their task manager ends them."""
        self._orphans += self.workers()
        self._started.pop("pool").kill()

    def workers(self) -> list[Process]:
        """The processes that the pool has started."""
        return children(self._started["pool"].pid)

    def kill_workers(self) -> int:
        """Kill them; returns how many there were."""
        workers = self.workers()
        for worker in workers:
            worker.kill()
        return len(workers)

    def submit(self, database_url: str, *options: str, own_job_server: bool = False) -> str:
        """Submit ingest, as a user does; returns Flink's id of the job, every task of which runs.

        With `own_job_server`, the submission starts a job server that ends with it.
        """
        before = set(self.running())
        self._secrets += 1
        secret = self.state / f"url {self._secrets}"
        secret.write_text(database_url)
        environment = {k: v for k, v in self.environment.items() if k != "TIDEMARK_DATABASE_URL"}
        command = [sys.executable, "-m", "pipelines.ingest", "--environment_type=EXTERNAL"]
        command += [f"--environment_config=127.0.0.1:{POOL}", f"--database_secret=file:{secret}", *options]
        if own_job_server:
            jar = jars.runnable_job_server(self.state / JOB_SERVER_JAR, Path(os.environ["FLINK_JOB_SERVER_JARS"]))
            command += ["--runner=FlinkRunner", f"--flink_master=127.0.0.1:{REST}", f"--flink_job_server_jar={jar}"]
            command += [f"--artifacts_dir={self.state}/artifacts"]
        else:
            command += ["--runner=PortableRunner", f"--job_endpoint={self.job_endpoint}"]
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stderr
        submitted = json.loads(done.stdout.splitlines()[-1])
        assert submitted["event"] == "submitted"
        self._until(lambda: bool(set(self.working()) - before), "the job", 60)
        (job,) = set(self.working()) - before
        assert self.rest(f"/jobs/{job}")["name"] == submitted["job"]
        staged = [path for path in (self.state / "artifacts").rglob("*") if path.is_file()]
        assert staged == [], "a job needs nothing of the job server's disk"
        return job

    def running(self) -> list[str]:
        """The jobs that run, or are about to."""
        jobs = self.rest("/jobs")["jobs"]
        return [job["id"] for job in jobs if job["status"] not in ("CANCELED", "FAILED", "FINISHED")]

    def working(self) -> list[str]:
        """The jobs of which every task runs."""
        return [
            job
            for job in self.running()
            if {vertex["status"] for vertex in self.rest(f"/jobs/{job}")["vertices"]} == {"RUNNING"}
        ]

    def slots(self) -> int:
        """How many are free; 0 while there is no leader yet."""
        try:
            return int(self.rest("/overview")["slots-available"])
        except (AssertionError, OSError):
            return 0

    def checkpoints(self, job: str) -> dict[str, Any]:
        """Counts and the latest ones."""
        found: dict[str, Any] = self.rest(f"/jobs/{job}/checkpoints")
        return found

    def restarts(self, job: str) -> int:
        """How often a job was started again, whatever it was restored from."""
        (metric,) = self.rest(f"/jobs/{job}/metrics?get=numRestarts")
        return int(metric["value"])

    def cancel(self, job: str) -> None:
        """Cancel a job and wait until it is gone."""
        self.rest(f"/jobs/{job}", method="PATCH")
        self._until(lambda: job not in self.running(), "the job's end")

    def stop(self, job: str) -> str:
        """Stop a job with a savepoint; returns its path."""
        body = {"targetDirectory": f"file://{self.state}/savepoints", "drain": False}
        trigger = self.rest(f"/jobs/{job}/stop", method="POST", body=body)["request-id"]
        status: dict[str, Any] = {}

        def done() -> bool:
            status.update(self.rest(f"/jobs/{job}/savepoints/{trigger}"))
            return bool(status["status"]["id"] == "COMPLETED")

        self._until(done, "the savepoint")
        assert "location" in status["operation"], str(status)[:500]
        return str(status["operation"]["location"])

    def rest(self, path: str, *, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
        """Flink's REST interface."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{REST}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:2000]) from None
        return json.loads(text) if text.strip() else {}

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.state / f"{name}.log").read_text(errors="replace")

    def _flink(self, name: str, *jvm: str, arguments: list[str] | None = None) -> None:
        *memory, entry = jvm
        path = ":".join(str(jar) for jar in sorted(Path(os.environ[network.PLACE]).glob("*.jar")))
        log4j = f"-Dlog4j.configurationFile=file:{self.state}/log4j.properties"
        command = ["java", *OPENS, log4j, *memory, "-cp", path, entry, "--configDir", str(self.state / "config")]
        self._started[name] = start([*command, *(arguments or [])], self.state / f"{name}.log")

    def _start_job_server(self) -> None:
        path = f"{os.environ['FLINK_JOB_SERVER_JARS']}/*"
        command = ["java", *OPENS, "-Xmx1g", "-cp", path, "org.apache.beam.runners.flink.FlinkJobServerDriver"]
        # port 0: any, and on loopback only
        command += ["--job-host=127.0.0.1", "--job-port=0", "--artifact-port=0", "--expansion-port=0"]
        command += [f"--artifacts-dir={self.state}/artifacts", f"--flink-master=127.0.0.1:{REST}"]
        command += [f"--flink-conf-dir={self.state}/config"]
        self._started["job server"] = start(command, self.state / "job server.log")

        def port() -> bool:
            found = re.search(r"JobService started on [^ ]*:(\d+)", self.log("job server"))
            self.job_endpoint = f"127.0.0.1:{found[1]}" if found else ""
            return bool(found)

        self._until(port, "the job server")

    def _until(self, condition: Callable[[], bool], what: str, within_s: float = 90) -> None:
        began = time.monotonic()
        if not wait_until(condition, within_s):
            dead = [name for name, process in self._started.items() if not process.alive()]
            raise AssertionError(f"{what} did not come within {time.monotonic() - began:.0f} s; ended: {dead}")
