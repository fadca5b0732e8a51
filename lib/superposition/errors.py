"""Errors that are meant to be read by the person who can mend them."""


class UserError(ValueError):
    """Something the caller can put right: one sentence that says what is wrong and what to do."""
