"""MQTT over TLS: by a token, and by a certificate whose common name is the project, where that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.certificates import Authority, pem
from tests.edge.conftest import Running
from tests.edge.foreign import run, tool
from tests.waiting import eventually


def test_a_token_or_a_certificate_lets_in(edge: Callable[..., Running], token: str, tmp_path: Path) -> None:
    authority = Authority("ours")
    (tmp_path / "ca.pem").write_bytes(pem(authority.certificate))
    for name in ("server", "cams", "other"):
        authority.issue(name, tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    tls = (f"--tls_certificate={tmp_path / 'server.pem'}", f"--tls_key={tmp_path / 'server.key'}")

    def publish(running: Running, *who: str, status: int = 0) -> None:
        where = ["-h", "localhost", "-p", str(running.device_ports["mqtt"][0]), "--cafile", str(tmp_path / "ca.pem")]
        what = ["-V", "mqttv5", "-q", "1", "-t", "tidemark/cams/g/m", "-m", "1"]
        run(tool("mosquitto_pub"), *where, *what, *who, status=status)

    def certificate(name: str) -> tuple[str, ...]:
        return "--cert", str(tmp_path / f"{name}.pem"), "--key", str(tmp_path / f"{name}.key")

    by_token = edge("--mqtt_port=0", *tls)
    publish(by_token, "-u", "cams", "-P", token)
    publish(by_token, *certificate("cams"), status=135)  # nobody said that it is enough
    eventually(lambda: by_token.metric("points_accepted_total") == 1)
    by_certificate = edge("--mqtt_port=0", *tls, f"--tls_client_ca={tmp_path / 'ca.pem'}", "--tls_client_projects=true")
    publish(by_certificate, *certificate("cams"))
    publish(by_certificate, *certificate("cams"), "-u", "cams", "-P", token)
    publish(by_certificate, *certificate("cams"), "-u", "other", status=135)
    publish(by_certificate, "-u", "cams", "-P", token, status=7)  # no certificate: no connection
    publish(by_certificate, *certificate("other"))  # may come in, and its message is another project's
    eventually(lambda: by_certificate.metric("points_accepted_total") == 2)
    eventually(lambda: by_certificate.metric("points_refused_total") == 1)
