"""Every setting of training, with its unit and, where it has one, its place in the paper."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mogu.errors import MoguError

_OF_ONE_WAY: dict[str, tuple[str, ...]] = {
    "token": (
        "wrapped_share",
        "routed_tokens",
        "routed_prompt_tokens",
        "variant_objective",
        "router_form",
        "router_start",
        "router_epochs",
        "router_learning_rate",
        "router_loss_weight",
        "weigh_by_kind",
        "router_distance",
    ),
    "sequence": (
        "usable_variant",
        "look_alike_refusal_budget",
        "framed_refusal_budget",
        "read_reply_tokens",
    ),
}
"""The settings that one way of routing alone makes use of."""


class TrainingSettings(BaseModel):
    """How the two variants and the routers are trained. The defaults are the preset ``default``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    routing: Literal["sequence", "token"] = Field(
        "sequence",
        description="sequence: a gate decides for the whole of a reply whether it is a refusal; "
        "token: each layer's router weighs both variants for every token (paper)",
    )

    # Data.
    malicious_requests: int = Field(1600, ge=8, description="malicious requests trained on (paper: 300)")
    benign_requests: int = Field(1700, ge=8, description="benign requests trained on (paper: 300)")
    variant_requests: int | None = Field(
        128,
        ge=8,
        description="of each label, those that the variants learn from; null: all (paper). Routers use all",
    )
    wrapped_share: float = Field(
        0.12, ge=0, le=1, description="token routing: share of the requests put into frames (paper: none)"
    )
    reply_tokens: int = Field(
        16, ge=2, description="tokens of the base's own reply from which the usable variant learns"
    )
    validation_requests: int = Field(140, ge=8, description="validation requests of each label")

    # Layer.
    rank: int = Field(8, ge=1, description="LoRA rank of each variant (paper: 8)")
    lora_alpha: float = Field(
        16, gt=0, description="LoRA alpha; the scaling is lora_alpha / rank (paper: 16)"
    )
    layer_share: float = Field(
        0.5, gt=0, le=1, description="share of the layers that are routed, from the top (paper: 1)"
    )

    # Routing rule.
    routed_tokens: int | None = Field(
        None, ge=1, description="m: reply tokens sampled from routed logits (paper: 5); null: the whole reply"
    )
    routed_prompt_tokens: int | None = Field(
        0, ge=0, description="last prompt tokens that are routed; null: all (paper: all)"
    )

    # Variants.
    variant_objective: Literal["target", "ratio"] = Field(
        "target",
        description="target: cross-entropy of the wanted replies, to malicious and benign requests alike; "
        "ratio: CE(wanted) / CE(unwanted) where the base does the opposite (paper)",
    )
    variant_epochs: int = Field(2, ge=1, description="passes over the data, at most, for each variant")
    variant_learning_rate: float | None = Field(
        None, gt=0, description="of both variants, AdamW; null: 1.152 / width of the layer (paper: 5e-5)"
    )

    usable_variant: bool | None = Field(
        None,
        description="sequence routing: train the usable variant too, which then writes what is not refused; null: "
        "where the base refuses clearly more benign requests than benign_refusal_budget allows",
    )

    # Routers.
    router_form: Literal["folded", "paper"] = Field(
        "folded", description="folded: one vector a weight; paper: three linear maps, folded when saved"
    )
    router_start: Literal["fit", "random"] = Field(
        "fit", description="fit: start at a logistic fit on the base's activations; random (paper)"
    )
    router_epochs: int = Field(1, ge=1, description="passes over the data, at most, for the routers")
    router_learning_rate: float | None = Field(
        None, gt=0, description="of the routers; null: 1.152 / width of the layer (paper: 5e-4)"
    )
    router_loss_weight: float | None = Field(
        None,
        ge=0,
        description="token routing: lambda, the weight of the router loss; null: chosen on validation (paper: 2)",
    )
    weigh_by_kind: bool = Field(
        True,
        description="token routing: look-alikes count double, short harmful questions half (paper: no)",
    )
    router_distance: Literal["l1", "squared"] = Field(
        "l1", description="distance in the router loss (paper: l1)"
    )
    benign_refusal_budget: float | None = Field(
        0.02,
        ge=0,
        le=1,
        description="share of benign requests that may be refused; null: no calibration (paper)",
    )
    look_alike_refusal_budget: float = Field(
        0.08, ge=0, le=1, description="sequence routing: share of benign look-alikes that may be refused"
    )
    framed_refusal_budget: float = Field(
        0.2,
        ge=0,
        le=1,
        description="sequence routing: share of benign requests in jailbreak frames that may be refused",
    )
    read_reply_tokens: int | None = Field(
        64,
        ge=8,
        description="sequence routing: tokens of the base's replies on which the gate learns to read them, and over "
        "which the budgets hold; null: it reads prompts only",
    )

    # Loop.
    batch_size: int = Field(16, ge=1, description="sequences a step (paper: 8)")
    evaluations: int = Field(
        4, ge=1, description="validations in each stage, evenly spread; each is a checkpoint"
    )
    seed: int = Field(0, ge=0, description="of data order, sampling and initial values")
    gradient_checkpointing: bool = Field(
        False, description="trade time for memory; prefixes are then not reused"
    )

    @model_validator(mode="after")
    def _paper_routers_start_at_random(self) -> Self:
        if self.router_form == "paper" and self.router_start == "fit":
            raise ValueError("router_start='fit' needs router_form='folded': three maps have no unique fit")
        return self

    @model_validator(mode="after")
    def _settings_of_one_way_of_routing(self) -> Self:
        other = "token" if self.routing == "sequence" else "sequence"
        fields = type(self).model_fields
        unused = [name for name in _OF_ONE_WAY[other] if getattr(self, name) != fields[name].default]
        if unused:
            raise ValueError(
                f"routing={self.routing!r} makes no use of {', '.join(unused)}: only routing={other!r} does"
            )
        if self.routing == "sequence":
            if self.benign_refusal_budget is None:
                raise ValueError("routing='sequence' needs a benign_refusal_budget")
        elif self.routed_tokens is None:
            raise ValueError("routing='token' needs routed_tokens: try 24, or 5 as in the paper")
        elif self.routed_prompt_tokens == 0:
            raise ValueError("routing='token' needs routed_prompt_tokens of 1 or more: the last one decides")
        elif self.router_loss_weight is None and self.benign_refusal_budget is None:
            raise ValueError("router_loss_weight is chosen within benign_refusal_budget: give one of the two")
        return self

    @classmethod
    def preset(cls, name: str) -> Self:
        """The settings of a named preset.

        Raises:
            MoguError: if there is none of that name.
        """
        if name not in PRESETS:
            raise MoguError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
        return cls.model_validate(PRESETS[name])


PRESETS: dict[str, dict[str, object]] = {
    "default": {},
    # The best that was found for routers of single tokens.
    "token": {
        "routing": "token",
        "malicious_requests": 800,
        "benign_requests": 800,
        "validation_requests": 112,
        "routed_tokens": 24,
        "routed_prompt_tokens": 1,
        "benign_refusal_budget": 0.03,
    },
    "paper": {
        "routing": "token",
        "malicious_requests": 300,
        "benign_requests": 300,
        "wrapped_share": 0.0,
        "variant_requests": None,
        "reply_tokens": 24,
        "layer_share": 1.0,
        "routed_tokens": 5,
        "routed_prompt_tokens": None,
        "variant_objective": "ratio",
        "variant_learning_rate": 5e-5,
        "router_epochs": 2,
        "router_form": "paper",
        "router_start": "random",
        "router_learning_rate": 5e-4,
        "router_loss_weight": 2.0,
        "weigh_by_kind": False,
        "benign_refusal_budget": None,
        "batch_size": 8,
    },
    # The default's method on all that the corpus has; about three times its time.
    "full": {
        "malicious_requests": 3200,
        "benign_requests": 3600,
        "variant_requests": 320,
        "validation_requests": 240,
        "read_reply_tokens": 256,
    },
    # What CI affords twice: the default's method on a quarter of the data.
    "quick": {
        "malicious_requests": 220,
        "benign_requests": 260,
        "variant_requests": 64,
        "validation_requests": 48,
        "read_reply_tokens": 32,
        "batch_size": 8,
        "evaluations": 2,
    },
}
