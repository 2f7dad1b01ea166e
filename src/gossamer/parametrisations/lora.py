"""Low-rank changes of frozen weights are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from gossamer import adapting
from gossamer.anatomy import transposed, widths
from gossamer.errors import ExperimentError
from gossamer.parametrisations import Parametrisation
from gossamer.wrapping import library, quiet

if TYPE_CHECKING:
    from torch import nn

    from gossamer.layout import Layout

Rank = Annotated[int, Field(ge=1)]
FACTOR_A, FACTOR_B = "lora_A.default.weight", "lora_B.default.weight"


class Lora(Parametrisation):
    """LoRA: the row is A [r, n] and B [m, r] for each target W [m, n], used as W + scale * B A, and the head.

    B starts at zero, so the model is the base at first. With ranks that differ from node to node, the row has room for
    the largest; what lies beyond a node's own rank is zero and stays so. The scale, alpha / r (or alpha / sqrt(r)), is
    that of the largest rank at every node, so that factors of different rank can be put together: a node's own alpha is
    in proportion to its rank.
    """

    source: ClassVar[str] = "Hu et al. 2022; Sun et al. 2024 (FFA-LoRA); Liu et al. 2024 (DoRA); Kalajdzievski 2023"

    kind: Literal["lora"] = "lora"
    rank: Rank | Annotated[tuple[Rank, ...], Field(min_length=1)] = Field(
        default=8, description="r; or several, of which node i has the one at place i modulo their number"
    )
    alpha: float | None = Field(default=None, gt=0, description="alpha of the largest rank (default: twice that rank)")
    targets: tuple[str, ...] = Field(
        default=(),
        description="patterns of full or last names of linear layers, e.g. 'q_proj' or '*.mlp.*'; empty: queries and "
        "values of attention, else all linear layers of the blocks, else all but the head",
    )
    train: Literal["both", "b"] = Field(
        default="both", description="both factors, or B alone: A is drawn from the seed, frozen and shared (FFA-LoRA)"
    )
    dora: bool = Field(default=False, description="lengths of the columns of weights are trained apart (DoRA)")
    rank_stabilised: bool = Field(default=False, description="scale alpha / sqrt(r) instead of alpha / r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of what goes into A that is dropped in training")
    head: bool = Field(default=True, description="the task's head is trained too, where there is one")

    @field_validator("rank", mode="before")
    @classmethod
    def _whole_ranks(cls, rank: Any) -> Any:
        several = rank if isinstance(rank, (list, tuple)) else [rank]
        if not several or any(not isinstance(r, int) or isinstance(r, bool) or r < 1 for r in several):
            raise ValueError("a rank is a whole number from 1 on; give one, or a list of them")
        return rank

    @field_validator("targets", mode="before")
    @classmethod
    def _list_of_targets(cls, targets: Any) -> Any:
        if isinstance(targets, str):
            raise ValueError(f"give a list of patterns: ['{targets}']")
        return targets

    @model_validator(mode="after")
    def _check_ranks(self) -> Lora:
        if not isinstance(self.rank, int) and len(set(self.rank)) > 1 and (self.train != "both" or self.dora):
            what = "dora = true" if self.dora else f"train = '{self.train}'"
            raise ValueError(f"several ranks need both factors and nothing else of a change, not {what}; give one rank")
        return self

    @property
    def largest(self) -> int:
        """The rank that a row has room for."""
        return self.rank if isinstance(self.rank, int) else max(self.rank)

    def ranks(self, nodes: int) -> tuple[int, ...]:
        if isinstance(self.rank, int):
            return ()
        dealt = tuple(self.rank[node % len(self.rank)] for node in range(nodes))
        return dealt if len(set(dealt)) > 1 or dealt[:1] != (self.largest,) else ()

    def applied(self, module: nn.Module) -> nn.Module:
        peft = library("peft")
        names = adapting.targets(module, self.targets, self.head)
        for name in names:
            self._check_fits(name, module.get_submodule(name))
        adapting.freeze(module)
        config = peft.LoraConfig(
            r=self.largest,
            lora_alpha=2 * self.largest if self.alpha is None else self.alpha,
            lora_dropout=self.dropout,
            target_modules=adapting.exactly(names),
            use_dora=self.dora,
            use_rslora=self.rank_stabilised,
        )
        before = [*module.parameters(), *module.buffers()]
        box: Any = adapting.boxed(module)
        with quiet():
            peft.inject_adapter_in_model(config, box)
        module = box.module
        adapting.settle(module, before)
        if self.train == "b":
            for name, parameter in module.named_parameters():
                if name.endswith(FACTOR_A):
                    parameter.requires_grad_(False)
        if self.head:
            adapting.train_head(module, self.kind)
        adapting.no_short_cuts(module)
        return module

    def _check_fits(self, name: str, layer: nn.Module) -> None:
        inputs, outputs = widths(layer)
        if self.largest > min(inputs, outputs):
            raise ExperimentError(
                f"parametrisation.rank = {self.largest}: layer '{name}' with {inputs} inputs and {outputs} outputs has "
                f"room for a rank of {min(inputs, outputs)} at most; use that, or leave it out of targets"
            )

    def layout(self, module: nn.Module) -> Layout:
        import dataclasses

        from gossamer.layout import Factors, Layout

        layout = Layout.of(module)
        trained = {entry.name: entry for entry in layout.entries if entry.trainable}
        factors = []
        for name, layer in module.named_modules():
            a, b = trained.get(f"{name}.{FACTOR_A}"), trained.get(f"{name}.{FACTOR_B}")
            if a is not None and b is not None and not self.dora:
                changed: Any = layer
                base, scale = changed.base_layer, changed.scaling["default"]
                factors.append(Factors(a, b, f"{name}.base_layer.weight", scale, transposed(base)))
        return dataclasses.replace(layout, factors=tuple(factors))
