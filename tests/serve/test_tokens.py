"""The one reader of token files, for this server's own and for those that are sent to others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketvit.errors import UsageError
from pocketvit.serve.tokens import MIN_TOKEN, read_token


def test_a_token_is_the_first_line_and_may_be_short_where_it_is_anothers(tmp_path: Path) -> None:
    assert read_token(None) == read_token(None, MIN_TOKEN) == ""
    (tmp_path / "t").write_text("\n  abc-123 \nsecond line\n")
    assert read_token(str(tmp_path / "t")) == read_token(tmp_path / "t", 7) == "abc-123"
    with pytest.raises(UsageError, match="holds no token of 8 or more printable") as caught:
        read_token(tmp_path / "t", 8)
    assert "abc-123" not in str(caught.value)
    assert "token_urlsafe" in caught.value.todo


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff", "\u00fc".encode(), b"a\0b", b"x" * 20_000])
def test_what_is_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(UsageError, match=r"t: .*token"):
        read_token(tmp_path / "t")


@pytest.mark.parametrize("content", ["", "short", "with spaces in it, but long", "n\u00f6nascii-but-long-enough"])
def test_a_server_asks_for_a_token_that_cannot_be_guessed(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="holds no token"):
        read_token(tmp_path / "token", MIN_TOKEN)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="the token cannot be read"):
            read_token(path, MIN_TOKEN)
