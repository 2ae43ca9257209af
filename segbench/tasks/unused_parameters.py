"""Which weights a loss reaches."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def unused_parameters(loss: Tensor, weights: Iterable[Tensor]) -> list[Tensor]:
    """Finds the weights that get no gradient.

    Args:
        loss: Its graph is walked; nothing is computed.
        weights: Leaves of the graph, or not.

    Returns:
        Those with `requires_grad` that the loss does not depend on, in the order given.
    """
    reached: set[int] = set()
    seen: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of the nodes that collect gradients
        if leaf is not None:
            reached.add(id(leaf))
        waiting.extend(next_node for next_node, _ in node.next_functions)
    return [weight for weight in weights if weight.requires_grad and id(weight) not in reached]
