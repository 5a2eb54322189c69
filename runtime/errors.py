"""Errors that are the user's to put right."""


class UserError(Exception):
    """Something that the user can put right: the message is one clear sentence with the way out.

    ``train.py`` prints only the message of such an error, without a traceback.
    """
