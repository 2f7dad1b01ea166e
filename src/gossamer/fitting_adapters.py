"""Whether what adapts a model fits the rest of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossamer.errors import ExperimentError
from gossamer.methods.dsgd import DSGD
from gossamer.models.hugging_face import HuggingFace
from gossamer.parametrisations.identity import Identity
from gossamer.parametrisations.lora import Lora

if TYPE_CHECKING:
    from gossamer.experiment import Experiment


def check_adapters(experiment: Experiment) -> None:
    """Raise ExperimentError that names the field, the value and the fix."""
    rule, part, model = experiment.aggregator, experiment.parametrisation, experiment.model
    if experiment.method.merges_into_base and experiment.downlink:
        raise ExperimentError(
            f"downlink: method.kind = '{experiment.method.kind}' tells nodes what it added to the base, which all must "
            "know exactly; leave the transforms out"
        )
    if rule.whole and experiment.method.world != "graph":
        raise ExperimentError(
            f"aggregator.kind = '{rule.kind}': it multiplies the factors of whole models, but method.kind = "
            f"'{experiment.method.kind}' sends changes of them to a server; use method = 'flexlora' with aggregator = "
            "'mean'"
        )
    if rule.whole and not (isinstance(part, Lora) and part.train == "both" and not part.dora):
        raise ExperimentError(
            f"aggregator.kind = '{rule.kind}' multiplies both factors of low-rank changes; use parametrisation = "
            "'lora' with train = 'both', or aggregator = 'mean'"
        )
    if rule.whole:
        _check_products(experiment)
    if isinstance(model, HuggingFace) and model.bits is not None and isinstance(part, Identity):
        raise ExperimentError(
            f"model.bits = {model.bits}: weights in so few bits cannot be trained, and parametrisation.kind = "
            "'identity' trains everything; use parametrisation = 'lora', or leave model.bits out"
        )
    if isinstance(model, HuggingFace) and model.precision != "float32" and experiment.dtype == "float64":
        raise ExperimentError(
            f"model.precision = '{model.precision}' rounds what dtype = 'float64' is for; use 'float32'"
        )
    if isinstance(model, HuggingFace) and model.base and experiment.init.kind != "default":
        raise ExperimentError(
            f"init.kind = '{experiment.init.kind}' would draw the weights of model.base anew; leave it out"
        )


def _check_products(experiment: Experiment) -> None:
    """Raise ExperimentError where something refers to factors of earlier rounds: a rule of products makes new ones, in
    which neither momentum nor differences to old ones mean anything."""
    method, learner, schedule = experiment.method, experiment.learner, experiment.schedule
    if type(method) is not DSGD:  # Those that build on it remember models.
        odd = f"what method.kind = '{method.kind}' remembers does not belong; use method = {{ kind = 'dsgd', "
        odd += "keep_optimizer = false }"
    elif method.keep_optimizer and learner.slot_names:
        odd = f"'{learner.slot_names[0]}' of the round before does not belong; set method.keep_optimizer = false"
    elif method.pull_back:
        odd = "the model of the last all-reduce is no anchor; leave method.pull_back out"
    elif experiment.clock.kind == "events":
        odd = "what local work changed meanwhile does not belong; use clock = 'rounds'"
    elif schedule.looks:
        odd = f"distances between rows do not belong, and schedule.kind = '{schedule.kind}' looks at them; use another "
        odd += "schedule"
    else:
        return
    raise ExperimentError(f"aggregator.kind = '{experiment.aggregator.kind}' makes new factors, to which {odd}")
