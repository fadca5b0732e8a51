"""Errors that are meant to be read by the person who can mend them."""


class UserError(ValueError):
    """Something the caller can put right: one sentence that says what is wrong and what to do."""


def reason(error: BaseException, most: int = 300) -> str:
    """What a foreign error says, as a part of a sentence: its first line that says something, else its kind."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = next((line for line in lines if line and not line.endswith(":")), type(error).__name__)
    said = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in said)  # it may quote a file
    return said if len(said) <= most else said[: most - 1] + "…"
