"""The Gaussian problems stand with the command that tabulates them, in validation/."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "validation"))
