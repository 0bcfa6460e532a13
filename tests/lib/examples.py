# SPDX-License-Identifier: Apache-2.0
"""How many examples Hypothesis tries, by its profile: HYPOTHESIS_PROFILE or --hypothesis-profile.

`modest` is the default; `ci` tries the same ones in each run, so a failure is the change's;
`deep` tries thirty times as many. No time limit for one example: a busy machine is no defect.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

USUAL = 100
"""Examples of a property in `modest`."""

settings.register_profile("modest", max_examples=USUAL, deadline=None)
settings.register_profile(
    "ci", max_examples=USUAL, deadline=None, derandomize=True, database=None, print_blob=True
)
settings.register_profile("deep", max_examples=30 * USUAL, deadline=None)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "modest")
)


def tries(count: int, **more: Any) -> settings:
    """A decorator: so many examples in `modest`, in other profiles in proportion; `more` are other
    settings of Hypothesis's."""
    profile = settings.default
    assert profile
    return settings(max_examples=max(1, count * profile.max_examples // USUAL), **more)
