"""The certificate of the HTTP ports for gRPC too: one that asks for TLS must not be reachable without."""

import grpc

from hindsight.errors import OptionError
from service.settings import Settings


def grpc_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """None without a certificate. Read once: a renewed one needs a restart here. Raises OptionError."""
    if settings.tls_certificate is None:
        return None
    if settings.tls_key_password is not None:
        raise OptionError("gRPC reads no encrypted keys: leave out tls_key_password, or grpc_port")
    try:
        certificate = settings.tls_certificate.read_bytes()
        key = certificate if settings.tls_key is None else settings.tls_key.read_bytes()
        authority = None if settings.tls_client_ca is None else settings.tls_client_ca.read_bytes()
    except OSError as error:
        raise OptionError(f"the TLS files cannot be read for gRPC: {error}") from None
    return grpc.ssl_server_credentials([(key, certificate)], authority, authority is not None)
