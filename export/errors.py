"""Why an export ended: the one error this package raises beside those of model/ and hindsight/."""

from hindsight.errors import HindsightError


class ExportError(HindsightError):
    """The artifact can't be made; the message names what was expected and what came. Nothing was written."""

    code = "export-error"
