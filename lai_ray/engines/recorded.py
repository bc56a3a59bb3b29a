"""The first target's answers from files, for a user who has them already; later targets answer through vLLM.

`[target] engine = "recorded"` with `attempts = { mmlu = ["right.jsonl", "wrong.jsonl"] }`. A row is one of the
benchmark's own records with the answer beside it, in `response`; stages/select.py reads them, and they are graded anew.
What was trained has no recorded answers: from iteration 1 on this is the vLLM engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lai_ray.config.settings import TargetSettings
from lai_ray.contracts import Engine, Model
from lai_ray.errors import ConfigError

FORMS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".csv", ".csv.gz", ".parquet")


def files(dataset: str, named: str | Sequence[str]) -> list[Path]:
    """The files that target.attempts names for a dataset, a folder's in the order of their names.

    Raises ConfigError where there is none.
    """
    found: list[Path] = []
    for name in [named] if isinstance(named, str) else named:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.endswith(FORMS))
            if not inside:
                raise ConfigError(f"target.attempts.{dataset}: {path} holds no file of answers ({', '.join(FORMS)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"target.attempts.{dataset}: no file or folder {name!r}")
    if not found:
        raise ConfigError(f"target.attempts.{dataset} names no file")
    return found


def later_engine(model: Model, settings: TargetSettings, gpus: float) -> Engine:
    """The engine of the targets that were trained."""
    from lai_ray.engines import vllm

    engine: Engine = vllm.ENGINE(model, settings, gpus)
    return engine


ENGINE = later_engine
