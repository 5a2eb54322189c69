"""Errors that are the user's to put right."""


class UserError(Exception):
    """Something that the user can put right: the message is one clear sentence with the way out.

    ``train.py`` prints only the message of such an error, without a traceback.
    """


def refuse_below(least: int, place: str = "", **settings: float | None) -> None:
    """Refuse settings that are too small.

    Args:
        least: The least that each may be.
        place: What stands before their names in a configuration, such as ``model.``.
        **settings: The settings; None is not set.

    Raises:
        UserError: One is smaller.
    """
    for name, value in settings.items():
        if value is not None and not value >= least:
            raise UserError(f"{place}{name} is {value}: at least {least} is needed")
