"""Copy a trained run into the package, as small as it can be: no checkpoint, fewer background states, no paths.

python validation/ship.py runs/validation/ks-universal-small-s0 ks/universal-small
"""

from __future__ import annotations

import sys
from pathlib import Path

from eddycast.files import read_json, write_json
from eddycast.training import RunDirectory, read_tensors, write_tensors

STATES = 64
LIMIT = 2_000_000


def main() -> None:
    run, name = sys.argv[1:]
    source = RunDirectory(Path(run))
    target = RunDirectory(Path(__file__).parent.parent / "src" / "eddycast" / "shipped" / name)
    config = read_json(source.config)
    config["data"]["attributes"].pop("path", None)
    write_json(target.config, config)
    write_json(target.normalization, read_json(source.normalization))
    total = 0
    for file in sorted((source.path / "components").glob("*.safetensors")):
        tensors, _ = read_tensors(file)
        if file.stem == "climatology":
            states = tensors["states"]
            tensors = {"states": states[:: max(1, len(states) // STATES)][:STATES]}
        write_tensors(target.component(file.stem), tensors)
        total += target.component(file.stem).stat().st_size
    print(f"{target.path}: {total} bytes of tensors")
    if total > LIMIT:
        raise SystemExit(f"That is more than {LIMIT} bytes: ship a smaller network.")


if __name__ == "__main__":
    main()
