"""Loads a model, wraps it in DeepSpeed with its ZeRO stage, and gathers the whole weights.  recipe -> engine"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import torch

from lai_ray.errors import DataError
from lai_ray.training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BUCKET = 200_000_000
"""Most elements that are reduced at once."""


def positions(recipe: Recipe) -> int | None:
    """Tokens that the model can read at most; None where its config does not have them. Raises DataError for none."""
    from transformers import AutoConfig

    try:
        count: int | None = getattr(AutoConfig.from_pretrained(recipe.model), "max_position_embeddings", None)
    except (OSError, ValueError) as error:
        raise DataError(f"{recipe.model}: the model cannot be read: {error}") from error
    return count


def load_model(recipe: Recipe) -> PreTrainedModel:
    """The model to train, in the precision to train in. Raises DataError when there is no such model."""
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(recipe.model, dtype=dtype)
    except (OSError, ValueError) as error:
        raise DataError(f"{recipe.model}: the model cannot be read: {error}") from error
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    return model


def engine_for(recipe: Recipe, model: PreTrainedModel) -> Any:
    """The DeepSpeed engine around `model`, with torch's own AdamW (the fused one where the step runs on the host)."""
    deepspeed = _deepspeed()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay),
        lr=recipe.learning_rate,
        betas=recipe.betas,
        fused=True if recipe.offload else None,
    )
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings(recipe, model))
    return engine


def settings(recipe: Recipe, model: PreTrainedModel) -> dict[str, Any]:
    """DeepSpeed's configuration. Accumulation is 1 there: the loop sets which pass ends a step."""
    cuda = torch.cuda.is_available()
    return {
        "train_micro_batch_size_per_gpu": recipe.sequences_per_device,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.clip,
        "bf16": {"enabled": recipe.precision == "bf16"},
        # Passes of one step are summed in fp32: in bf16 the small ones would be lost.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": recipe.zero_stage,
            "reduce_bucket_size": min(BUCKET, sum(p.numel() for p in model.parameters())),
            "overlap_comm": cuda,
            "stage3_gather_16bit_weights_on_model_save": True,
            **({"offload_optimizer": {"device": "cpu", "pin_memory": cuda}} if recipe.offload else {}),
        },
        "zero_allow_untested_optimizer": True,
        # With offload too: DeepSpeed's own AdamW for the host has to be compiled on every node.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, norms and biases without. One group where there is none: fewer, larger messages."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not weight_decay:
        return [{"params": parameters, "weight_decay": 0.0}]
    matrices = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def consolidated(engine: Any, zero_stage: int) -> dict[str, torch.Tensor]:
    """The whole weights, on rank 0 (other ranks may get none). Every rank must call it: stage 3 has them in parts."""
    if zero_stage == 3:
        weights: dict[str, torch.Tensor] | None = engine._zero3_consolidated_16bit_state_dict()
        return weights or {}
    return dict(engine.module.state_dict())


def imported() -> Any:
    """DeepSpeed, without its slow probing. Imported only when a device is needed: the import probes devices."""
    cpu = not torch.cuda.is_available()
    os.environ.setdefault("LOCAL_RANK", "0")
    if cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.comm
    import deepspeed.ops

    _skip_muon()
    if cpu:
        # Otherwise g++ compiles a shared-memory all-reduce at first use, about 20 s; gloo is enough.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _deepspeed() -> Any:
    """The same, in the process group."""
    deepspeed = imported()
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.comm.init_distributed(dist_backend=backend, verbose=False)
    return deepspeed


def _skip_muon() -> None:
    """Import the Muon optimizer, which is not used here, uncompiled.

    DeepSpeed's `initialize` imports it for a type check, and its three `@torch.compile` load all of inductor: 6.5 of
    the 6.6 s that `initialize` took.
    """
    compiler = torch.compile

    def as_it_is(function: Any = None, **_: Any) -> Any:
        return function if function is not None else as_it_is

    torch.compile = as_it_is
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    except ImportError:  # A DeepSpeed without this module: `initialize` only takes longer.
        pass
    finally:
        torch.compile = compiler
