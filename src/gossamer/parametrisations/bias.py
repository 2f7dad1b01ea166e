"""Only biases and the head are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.adapting import freeze, train_head
from gossamer.errors import ExperimentError
from gossamer.parametrisations import Parametrisation

if TYPE_CHECKING:
    from torch import nn


class Bias(Parametrisation):
    """BitFit: the row is every parameter with "bias" in its own name, those of norm layers too, and the head."""

    source: ClassVar[str] = "Ben Zaken et al. 2022 (BitFit); Sun et al. 2022 (FedPEFT)"

    kind: Literal["bias"] = "bias"

    def applied(self, module: nn.Module) -> nn.Module:
        freeze(module)
        biases = [p for name, p in module.named_parameters() if "bias" in name.rpartition(".")[2]]
        if not biases:
            raise ExperimentError(
                "parametrisation.kind = 'bias': the model has no biases (as LLaMA-like models have none); use 'lora', "
                "or 'peft' with method = 'ln_tuning'"
            )
        for bias in biases:
            bias.requires_grad_(True)
        train_head(module, self.kind)
        return module
