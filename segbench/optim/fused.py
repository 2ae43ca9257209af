"""One pass over all weights in an optimiser step, where torch has such a kernel and nobody chose otherwise."""

from typing import Any

from torch.optim import Adam, AdamW, Optimizer

# Of the others, some know `fused` on some devices only; and SGD's fails on parameters that receive their first
# gradient after other parameters did.
RELIABLY_FUSED = (Adam, AdamW)


def prefer_fused(optimizer: Optimizer) -> Optimizer:
    """Switches `fused` on in groups that leave the implementation open and whose parameters allow it.

    Set here and not at construction, `fused` does not make the optimiser unscale gradients by itself, which
    would forbid clipping under 16-mixed precision.

    Args:
        optimizer: Fresh, or about to load a state; what a saved state says of `fused` does not count.

    Returns:
        The same optimiser.
    """
    if type(optimizer) not in RELIABLY_FUSED:
        return optimizer
    for group in optimizer.param_groups:
        is_open = group["fused"] is None and group["foreach"] is None
        allowed = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in group["params"])
        if is_open and allowed and not group["differentiable"]:
            group["fused"] = True
    # Before the state is placed: fused kernels want their step counts on the device of the parameters.
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    return optimizer


def _keep_implementation(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    groups = [
        saved | {key: current[key] for key in ("fused", "foreach")}
        for saved, current in zip(state_dict["param_groups"], optimizer.param_groups, strict=False)
    ]
    missing = state_dict["param_groups"][len(groups) :]  # left for torch to complain about
    return state_dict | {"param_groups": groups + missing}
