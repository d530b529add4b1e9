"""TLS for listeners, from files that may be read again while connections are served."""

from __future__ import annotations

import ssl
from typing import Any

from tidemark.errors import UsageError
from tidemark.logs import log
from tidemark.settings import Values


class Tls:
    """A server's side of it.

    Attributes:
        context: For listeners; its certificate changes with `reload`.
    """

    def __init__(self, certificate: str, key: str | None, client_ca: str | None) -> None:
        """Read the files, all in PEM.

        Args:
            certificate: The chain.
            key: Its private key; None: it is in the file of the chain.
            client_ca: Who signs certificates of clients, which need one then; None: they need none.

        Raises:
            UsageError: one of them cannot be used.
        """
        self._certificate, self._key = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self._load(self.context)
            if client_ca:
                self.context.load_verify_locations(client_ca)
                self.context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"The certificate or its key cannot be used: {error}.") from None

    def reload(self) -> None:
        """Read the certificate again; the one that is in use stays where it cannot be."""
        try:
            # first where nothing is lost: of a pair that does not match a context keeps the half, and can serve nobody
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            self._load(self.context)
        except (OSError, ssl.SSLError) as error:
            log.error("The certificate cannot be read again, and the one in use stays: %s.", error)  # it says all

    def _load(self, context: ssl.SSLContext) -> None:
        # with no password a key that needs one is refused; without the argument it is asked for at the terminal
        context.load_cert_chain(self._certificate, self._key, password="")


def tls_of(values: Values) -> Tls | None:
    """The TLS of a listener's settings; None: there is none.

    Raises:
        UsageError: a setting is missing, or a file cannot be used.
    """
    if values.tls_certificate is None:
        if values.tls_key or values.tls_client_ca:
            raise UsageError("--tls_certificate is missing, and --tls_key or --tls_client_ca is given.")
        return None
    return Tls(values.tls_certificate, values.tls_key, values.tls_client_ca)


def common_name(certificate: dict[str, Any] | None) -> str:
    """The subject's common name of a client's certificate, as `ssl` gives it; empty: there is none, or several."""
    names = [
        value
        for attributes in (certificate or {}).get("subject", ())
        for name, value in attributes
        if name == "commonName"
    ]
    return str(names[0]) if len(names) == 1 else ""
