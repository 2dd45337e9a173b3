"""`python -m service.probe`: exit status 0 while the server on this machine can take work, 1 with one line on
stderr otherwise.

For a container's health check, where there is no curl. It runs every few seconds for years: the standard
library alone, nothing of ours that would load the server again.
"""

import os
import sys
import urllib.error
import urllib.request

URL_VARIABLE = "HINDSIGHT_PROBE_URL"
_TIMEOUT = 4.0  # seconds, less than the five a health check has: our line is then the one that is seen


def main() -> int:
    """Ask /readyz of $HINDSIGHT_PROBE_URL, or of 127.0.0.1 at $HINDSIGHT_PORT (8000)."""
    base = os.environ.get(URL_VARIABLE) or f"http://127.0.0.1:{os.environ.get('HINDSIGHT_PORT', '8000')}"
    url = base.rstrip("/") + "/readyz"
    # A proxy that the environment names is for the outside, never for a server on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT):
            return 0
    except urllib.error.HTTPError as error:
        answer = error.read(500).decode(errors="replace")
        sys.stderr.write(f"not ready: {url} answered {error.code} {answer}\n")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"not ready: {url}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
