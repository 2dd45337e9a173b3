"""`python -m service.probe [URL]`: exit status 0 while the server here can take work, else 1 and one line on
stderr.

For a container's health check, where there is no curl. It runs every few seconds for years: the standard
library alone, nothing of ours that would load the server again.
"""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

_TIMEOUT = 4.0  # seconds, less than the five a health check has: our line is then the one that is seen


def main(arguments: Sequence[str]) -> int:
    """Ask /readyz of the URL given, else of 127.0.0.1 at $HINDSIGHT_PORT (8000)."""
    base = arguments[0] if arguments else f"http://127.0.0.1:{os.environ.get('HINDSIGHT_PORT') or 8000}"
    url = base.rstrip("/") + "/readyz"
    # A proxy that the environment names is for the outside, never for a server on this machine.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if url.startswith("https:"):
        handlers.append(_trusting())
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=_TIMEOUT):
            return 0
    except urllib.error.HTTPError as error:
        answer = error.read(500).decode(errors="replace")
        sys.stderr.write(f"not ready: {url} answered {error.code} {answer}\n")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"not ready: {url}: {error}\n")
    return 1


def _trusting() -> urllib.request.HTTPSHandler:
    """The certificate is of the name that clients use, not of 127.0.0.1; the question holds no secret."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return urllib.request.HTTPSHandler(context=context)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
