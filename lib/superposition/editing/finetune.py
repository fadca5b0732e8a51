"""Fine-tuning of the layer that the rules edit: the bystander that every comparison of editors has.

Chapters ``16-lifelong-failure`` and ``21-cures``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from superposition.editing.editor import EditSettings, LayerEditor
from superposition.errors import UserError
from superposition.io import console
from superposition.lm.passes import logits_of, padded, run_body
from superposition.lm.scoring import join

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.models import LanguageModel

__all__ = ["FineTuner", "fine_tune"]


class FineTuner(LayerEditor):
    """One layer of a model, edited by :func:`fine_tune`; it keeps no account, W is the model's own.

    Parameters
    ----------
    model : LanguageModel
        Its weights change with every :meth:`edit`.
    layer : int
    write : EditSettings
        Its ``ft_…``.

    Attributes
    ----------
    memory : None
    log : list of dict
        For each edit: ``steps`` and ``loss`` of its step, and the norm of its ``change`` of W.

    Raises
    ------
    UserError
        A layer the model does not have.
    """

    memory: None = None

    def __init__(self, model: LanguageModel, layer: int, *, write: EditSettings | None = None):
        super().__init__(model, layer, "ft", write)

    def edit(self, facts: Sequence[Fact]) -> None:
        """Make one step with these edits, all in one forward pass.

        Raises
        ------
        UserError
            No new object; a loss that is not finite. Then, and after an interrupt, the model is as it was.
        """
        for fact in facts:
            if fact.target_new is None:
                raise UserError(f"The edit {fact.text!r} has no target_new: say what the model shall answer.")
        made, before, weight = self.n_edits, self._weights(), self.layer.parameter
        kept = weight.detach().clone()
        try:
            losses = fine_tune(self.model, self.layer.index, facts, self.write)
            change = float(np.linalg.norm(self._weights() - before))
            with console.interrupts_wait():
                self.log += [{"steps": len(losses) - 1, "loss": losses[-1], "change": change} for _ in facts]
                self._count(len(facts))
        except BaseException:
            if self.n_edits == made:
                weight.data.copy_(kept)
            raise

    def predicted(self, K: Float[np.ndarray, "d_m N"]) -> Float[np.ndarray, "d N"]:
        """Refused with a UserError: without an account nothing can be predicted."""
        raise UserError("Fine-tuning keeps no account of its edits: interference cannot be predicted.")

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and plain content from which :meth:`resume` gets to the same bits."""
        return {"W": self.layer.weight.detach().float().cpu().numpy().copy()}, self._content(self._weights())

    def resume(self, arrays: dict[str, np.ndarray], content: dict[str, Any]) -> None:
        """Take a saved state's weights up.

        Raises
        ------
        UserError
            They are not those of the saved steps.
        """
        W = arrays["W"].astype(float)
        self._put(W)
        self._take_up(W, content)


def fine_tune(model: LanguageModel, layer: int, facts: Sequence[Fact], write: EditSettings) -> list[float]:
    """Adam on the layer's whole W, for the objects' mean log-probability at the bare prompts; the losses by step."""
    joined = [join(model.tokenizer, fact.text, str(fact.target_new), fact.joint) for fact in facts]
    ids, mask = padded([one.token_ids[:-1] for one in joined])
    asked = [(row, at) for row, one in enumerate(joined) for at in range(one.first - 1, len(one.token_ids) - 1)]
    wanted = torch.tensor([token for one in joined for token in one.target], device=model.device)
    share = torch.tensor([1.0 / len(one.target) / len(joined) for one in joined for _ in one.target])
    weight = model.layers[layer].parameter
    narrow = weight.dtype in (torch.float16, torch.bfloat16)
    master = weight.detach().float() if narrow else weight  # Adam's ε is 0 in float16, and its small steps are lost
    before = master.detach().clone()
    weight.requires_grad_(True)
    adam = torch.optim.Adam([master], lr=write.ft_lr)
    losses = []
    try:
        for turn in range(write.ft_steps + 1):
            with torch.set_grad_enabled(turn < write.ft_steps):
                hidden = run_body(model, ids, mask, use_cache=False).last_hidden_state
                logs = logits_of(model, hidden[[r for r, _ in asked], [a for _, a in asked]]).log_softmax(-1)
                loss = -(logs.gather(1, wanted[:, None])[:, 0] * share.to(logs)).sum()
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise UserError(
                    f"The loss of fine-tuning is not finite at layer {layer}: the weights are damaged, or "
                    f"{model.dtype} is too narrow (try --dtype float32)."
                )
            if losses[-1] < write.ft_stop or turn == write.ft_steps:
                break
            adam.zero_grad()
            weight.grad = None
            loss.backward()
            if narrow:
                assert weight.grad is not None  # backward() has just set it
                master.grad = weight.grad.float()
            adam.step()
            with torch.no_grad():
                if write.ft_norm is not None:
                    master.copy_(torch.clamp(master, before - write.ft_norm, before + write.ft_norm))
                if narrow:
                    weight.copy_(master)
    finally:
        weight.requires_grad_(False)
        weight.grad = None
    return losses
