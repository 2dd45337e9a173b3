"""The TLS side of the server: at least version 1.2, and clients' certificates where an authority is named."""

import logging
import ssl

from hindsight.errors import OptionError
from service.logs import log
from service.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """The context of both ports; None without a certificate. Raises OptionError."""
    if settings.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, settings)
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise OptionError(f"tls_client_ca {settings.tls_client_ca}: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def renew(context: ssl.SSLContext, settings: Settings) -> bool:
    """Read certificate and key again, for connections from now on; -> whether they are in use. Broken ones
    change nothing but the log.
    """
    try:
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings)  # a failed load would spoil the live one
        _load(context, settings)
    except OptionError as error:
        log(logging.ERROR, "the TLS certificate is broken: the one read before stays", reason=str(error))
        return False
    log(logging.INFO, "TLS certificate read", file=str(settings.tls_certificate))
    return True


def _load(context: ssl.SSLContext, settings: Settings) -> None:
    assert settings.tls_certificate is not None
    secret = settings.tls_key_password
    password = "" if secret is None else secret.get_secret_value()  # None would ask on the terminal
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password)
    except (OSError, ssl.SSLError) as error:
        key = "" if settings.tls_key is None else f" with tls_key {settings.tls_key}"
        raise OptionError(f"tls_certificate {settings.tls_certificate}{key}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (
            f"not usable ({error.reason or error}); PEM files are expected, and tls_key_password if encrypted"
        )
    return error.strerror or str(error)
