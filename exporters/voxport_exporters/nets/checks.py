"""What must hold between the fields of a config, checked one after the other."""


def require(condition: bool, message: str) -> None:
    """Raises ValueError with `message` unless `condition` holds.

    One call for each condition and in order, so that a later one may rely on those before it.
    """
    if not condition:
        raise ValueError(message)
