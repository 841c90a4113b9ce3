"""What bash makes of texts that it quotes, and texts that are hard to quote."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from random import Random

# Every character of ASCII that ends no line, and some of all lengths that UTF-8 has.
_ALPHABET = [chr(code) for code in range(1, 128) if chr(code) not in "\r\n"] + list("é\u0085日\U0001f511")
_LETTERS = "abcXYZ019"


def hard_to_quote(dice: Random) -> list[str]:
    """Return some texts of 6 characters or more: letters and up to five of any kind, at any place."""
    return [
        "pa#ss word",
        "~#a:~b=~c,d",
        "one\ntwo\rthree\x1b",
        *(
            "".join(dice.sample(dice.choices(_ALPHABET, k=dice.randint(0, 5)) + dice.choices(_LETTERS, k=6), k=6))
            + "é="
            for _ in range(100)
        ),
    ]


def bash_quotes(texts: Sequence[str], locale: str) -> list[bytes]:
    """Return each text as `printf %q` writes it in that locale."""
    done = subprocess.run(
        ["bash", "-c", "printf '%q\\n' \"$@\"", "bash", *texts], env={"LC_ALL": locale}, capture_output=True, check=True
    )
    quoted = done.stdout.split(b"\n")[:-1]
    assert len(quoted) == len(texts)
    return quoted
