"""The jars of a Flink cluster and of Beam's job server for it, downloaded once."""

from __future__ import annotations

import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

from tidemark.local import cache

FLINK = "1.19.3"
RUNNER, JOB_SERVICE = "2.70.0", "2.65.0"
"""Of Beam's Flink runner and of its job service: not every version of every part is in every mirror of Maven Central."""

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>tidemark</groupId><artifactId>job-server</artifactId><version>1</version>
<dependencyManagement><dependencies>
  <dependency>
    <groupId>org.apache.beam</groupId><artifactId>beam-runners-java-job-service</artifactId><version>{JOB_SERVICE}</version>
    <!-- it has another version of the runner's core in it, with which tasks fail and start again without end -->
    <exclusions><exclusion><groupId>org.apache.beam</groupId><artifactId>beam-sdks-java-harness</artifactId></exclusion></exclusions>
  </dependency>
</dependencies></dependencyManagement>
<dependencies>
  <dependency>
    <groupId>org.apache.beam</groupId><artifactId>beam-runners-flink-1.19</artifactId><version>{RUNNER}</version>
  </dependency>
  <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>2.0.16</version></dependency>
</dependencies></project>
"""
CLUSTER = ("flink-dist", "log4j-api", "log4j-core", "log4j-slf4j-impl", "log4j-1.2-api", "flink-scala_2.12")


def job_server() -> Path:
    """The directory of the job server's jars.

    Raises:
        LocalError: Maven cannot bring them.
    """
    return cache.made_once(f"flink-job-server-{RUNNER}-{JOB_SERVICE}", _bring_job_server)


def _bring_job_server(directory: Path) -> None:
    cache.say("Downloading Beam's job server for Flink (once; 160 MB) …")
    (directory / "pom.xml").write_text(_POM)
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={directory}"]
    cache.install(["mvn", "-q", "-B", "-f", str(directory / "pom.xml"), *goal], "Beam's job server")


def runnable_job_server(jar: Path, jars: Path) -> Path:
    """Write a jar as `--flink_job_server_jar` wants it: Beam's release has all in one, this one names the others."""
    packages = ("java.lang", "java.lang.reflect", "java.util", "java.net", "java.nio", "java.io", "java.time")
    entries = {
        "Manifest-Version": "1.0",
        "Main-Class": "org.apache.beam.runners.flink.FlinkJobServerDriver",
        "Class-Path": " ".join(path.as_uri() for path in sorted(jars.glob("*.jar"))),
        "Add-Opens": " ".join(f"java.base/{package}" for package in packages),
    }
    lines = [f"{name}: {value}" for name, value in entries.items()]
    # a line of a manifest has at most 72 bytes, and goes on after a space
    folded = [("" if at == 0 else " ") + whole[at : at + 71] for whole in lines for at in range(0, len(whole), 71)]
    with zipfile.ZipFile(jar, "w") as packed:
        packed.writestr("META-INF/MANIFEST.MF", "\r\n".join(folded) + "\r\n")
    return jar


def cluster() -> Path:
    """The directory of the cluster's jars.

    Raises:
        LocalError: PyPI does not give them.
    """
    return cache.made_once(f"flink-{FLINK}", _bring_cluster)


def _bring_cluster(directory: Path) -> None:
    cache.say("Downloading Flink (once; 230 MB) …")
    name = f"apache-flink-libraries=={FLINK}"
    # pip's own download: uv has none
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-binary",
        ":all:",
        "-d",
        str(directory),
        name,
    ]
    cache.install(pip, "Flink")
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        for member in packed:
            jar = Path(member.name).name
            if "/deps/lib/" in member.name and jar.startswith(CLUSTER):
                with (directory / jar).open("wb") as target:
                    source = packed.extractfile(member)
                    assert source is not None
                    shutil.copyfileobj(source, target)
    archive.unlink()
