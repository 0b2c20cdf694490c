"""The page of situations is what ``why`` says."""

from __future__ import annotations

from tests.unit.why_page import PAGE, page


def test_the_page_shows_what_a_user_sees() -> None:
    text = page()

    assert PAGE.read_text("utf-8") == text, "run python -m tests.unit.why_page"
    assert text.count("### ") >= 25
