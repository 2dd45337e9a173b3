"""Talk to a running `hindsight serve` from Python, with the library's own types and errors.

>>> with hindsight.Client("http://localhost:8000") as client:
...     client.detect("blood.jpg", score_threshold=0.5)

wire.py: what is sent, and what answers mean. http.py: connections. retry.py: when a request is sent again.
core.py: these together, on an event loop. blocking.py and asynchronous.py: the two public faces.
"""

from hindsight.client.asynchronous import AsyncClient
from hindsight.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
