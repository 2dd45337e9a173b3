"""The certificate of the HTTP ports for gRPC too: one that asks for TLS must not be reachable without."""

from typing import Any

import grpc

from hindsight.errors import OptionError
from service.settings import Settings


class GrpcCertificate:
    """The files as gRPC wants them. gRPC asks for a newer certificate whenever somebody connects."""

    def __init__(self, settings: Settings) -> None:
        """Raises OptionError."""
        if settings.tls_key_password is not None:
            raise OptionError("gRPC reads no encrypted keys: leave out tls_key_password, or grpc_port")
        self._settings = settings
        self._renewed: Any = None
        self.credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._read(), self._newer, settings.tls_client_ca is not None
        )

    def renew(self) -> None:
        """Read the files again, for connections from now on. Raises OptionError."""
        self._renewed = self._read()

    def _newer(self) -> Any:
        """On a thread of gRPC's: what was read since it last asked, or None."""
        renewed, self._renewed = self._renewed, None
        return renewed

    def _read(self) -> Any:
        settings = self._settings
        assert settings.tls_certificate is not None, "there is one, or no TLS"
        try:
            certificate = settings.tls_certificate.read_bytes()
            key = certificate if settings.tls_key is None else settings.tls_key.read_bytes()
            authority = None if settings.tls_client_ca is None else settings.tls_client_ca.read_bytes()
        except OSError as error:
            raise OptionError(f"the TLS files cannot be read for gRPC: {error}") from None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


def grpc_certificate(settings: Settings) -> GrpcCertificate | None:
    """None without a certificate. Raises OptionError."""
    return None if settings.tls_certificate is None else GrpcCertificate(settings)
