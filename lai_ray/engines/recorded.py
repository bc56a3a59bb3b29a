"""The first target's answers from the user's files; later targets answer through vLLM.  settings -> files, engine

`[target] engine = "recorded"` with `attempts = { mmlu = ["right.jsonl", "wrong.jsonl"] }`. A row is one of the
benchmark's own records plus the answer in `response`; stages/select.py reads the rows, and they are graded again.
Trained targets have no recorded answers: from iteration 1 on this is the vLLM engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lai_ray.config.settings import TargetSettings
from lai_ray.contracts import Engine, Model
from lai_ray.errors import ConfigError

FORMS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".csv", ".csv.gz", ".parquet")


def files(dataset: str, named: str | Sequence[str]) -> list[Path]:
    """The files that target.attempts names for a dataset; those of a folder in the order of their names.

    Raises ConfigError for a missing file, and where there is none.
    """
    paths: list[Path] = []
    for name in [named] if isinstance(named, str) else named:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.endswith(FORMS))
            if not inside:
                raise ConfigError(f"target.attempts.{dataset}: {path} holds no file of answers ({', '.join(FORMS)})")
            paths += inside
        elif path.is_file():
            paths.append(path)
        else:
            raise ConfigError(
                f"target.attempts.{dataset}: no file or folder {name!r}, looked for from the current folder"
            )
    if not paths:
        raise ConfigError(f"target.attempts.{dataset} names no file")
    return paths


def later_engine(model: Model, settings: TargetSettings, gpus: float) -> Engine:
    """The engine of trained targets."""
    from lai_ray.engines import vllm

    engine: Engine = vllm.ENGINE(model, settings, gpus)
    return engine


ENGINE = later_engine
