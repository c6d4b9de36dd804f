"""The errors of the models. A leaf: imports nothing."""


class ModelError(Exception):
    """Raised when a model's weights are missing, damaged or not the expected ones; the message names the file."""


class LabelError(ModelError):
    """Raised when a model's labels cannot be mapped onto the taxonomy; the message prints them."""
