"""Bearer tokens as files hold them: of this server, and of those that are asked."""

from __future__ import annotations

from pathlib import Path

from pocketvit.errors import UsageError
from pocketvit.files import read_text
from pocketvit.terminal import shown

MIN_TOKEN = 16
"""Characters of a token that a server asks for; fewer could be guessed."""
MAX_FILE_BYTES = 10_000


def read_token(path: str | Path | None, least: int = 1) -> str:
    """The bearer token in the first line of a file, white space around it left out; empty where no file is named.

    Raises:
        UsageError: the file cannot be read, or its first line is not of ``least`` or more printable ASCII characters
            without spaces.
    """
    if path is None:
        return ""
    try:
        token = read_text(Path(path), MAX_FILE_BYTES).strip().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "") or "no text file of a token's size"
        raise UsageError(f"{path}: the token cannot be read ({shown(reason)}).", "Check --token_file.") from error
    if len(token) < least or not token.isascii() or not token.isprintable() or " " in token:
        size = f"{least} or more " if least > 1 else ""
        what = f"{path}: its first line holds no token of {size}printable ASCII characters without spaces."
        raise UsageError(what, "Make one, e.g.: python -c 'import secrets; print(secrets.token_urlsafe(32))'.")
    return token
