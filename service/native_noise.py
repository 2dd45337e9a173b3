"""The log is one JSON object a line; some libraries write to stderr on their own, for a client's bad file."""

import ctypes
import logging
import warnings
from pathlib import Path

from PIL import Image, features

from service.logs import log


def silence_image_readers() -> None:
    """Pillow's warnings and log, and libtiff's messages, say of a bad image what its answer says as well.

    Every distinct warning is remembered by Python for ever, so these would be a leak too. The one that means
    "too many pixels" becomes the error that hindsight.decode expects.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    if features.check("libtiff") and not _silence_libtiff():
        log(
            logging.WARNING,
            "libtiff not found: its messages about bad images will be in this log as they are",
        )


def _silence_libtiff() -> bool:
    """Pillow leaves libtiff its default handler, which prints. Pillow has loaded it, so it is mapped here."""
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    paths = {line[line.index("/") :] for line in mapped if "/libtiff" in line}
    for path in paths:
        library = ctypes.CDLL(path)
        library.TIFFSetErrorHandler.argtypes = library.TIFFSetWarningHandler.argtypes = [ctypes.c_void_p]
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
    return bool(paths)
