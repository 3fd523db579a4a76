from __future__ import annotations

import pytest

from edgekit.fleet.secret_tokens import is_genuine, make_token, token_id


def test_a_token_is_proven_by_what_is_kept_of_it() -> None:
    made, other = make_token("eke"), make_token("eke")
    secret = made.text.rpartition(f"{made.id}_")[2]
    assert token_id("eke", f" {made.text}\n") == made.id
    assert is_genuine("eke", f" {made.text}\n", made.secret_sha256)
    assert not is_genuine("eke", made.text, other.secret_sha256)
    assert not is_genuine("eke", made.text, None)
    # Neither what is kept nor what is shown of it gives the secret away.
    assert secret not in made.secret_sha256
    assert secret not in repr(made)


@pytest.mark.parametrize("change", ["ekt", "", "x" * 200])
def test_what_has_another_form_is_no_token(change: str) -> None:
    made = make_token("eke")
    text = made.text.replace("eke", change, 1) if change != "" else ""
    assert token_id("eke", text) is None
    assert not is_genuine("eke", text, made.secret_sha256)
    # Not even where what is kept is the hash of nothing.
    assert not is_genuine("eke", "", make_token("eke").secret_sha256)
