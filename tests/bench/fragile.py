"""What a process of ``tests/bench/test_watched.py`` holds. It imports little, since the process is started often."""

from __future__ import annotations

import os
import time


class Fragile:
    """Ends its process, or hangs, when it is told to."""

    def __init__(self) -> None:
        self.asked = 0

    def count(self) -> dict[str, int]:
        self.asked += 1
        return {"asked": self.asked}

    def die(self) -> dict[str, int]:
        os.abort()

    def hang(self) -> dict[str, int]:
        time.sleep(60)
        return {}
