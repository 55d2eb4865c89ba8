"""Linear layers and the sites of a model: shapes under a form, and what a plan chooses.

A site is one linear layer that may be factorized. A joint site stands for several that read the
same input; factorized together, they share one down factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.core.forms import DENSE, PLAIN, Form, Plan, parse_form
from autotune.core.types import from_mapping


@dataclass(frozen=True, kw_only=True, order=True)
class LayerShape:
    """One linear layer on one workload: (M × K)·(K × N), in a form.

    With `parts` it is several layers of these widths (N = Σ parts) that share their input: side by
    side when dense, else one shared down factor (K × r) and an up factor for each.
    """

    tokens: int
    in_features: int
    out_features: int
    form: Form = DENSE
    dtype: str = "fp32"
    parts: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        """The form's rank; 0 for a dense layer."""
        return self.form.rank

    @property
    def is_dense(self) -> bool:
        """Whether the layer is not factorized, in whatever precision."""
        return self.form.is_dense

    @property
    def widths(self) -> tuple[int, ...]:
        """Output widths of the layers: `parts`, or N alone."""
        return self.parts or (self.out_features,)

    @property
    def dense(self) -> LayerShape:
        """The same layer as the model has it: the reference that its latency is compared with."""
        return self if self.form.is_unchanged else self.with_form(DENSE)

    def with_form(self, form: Form) -> LayerShape:
        """The same layer in another form."""
        return LayerShape(  # dataclasses.replace takes five times as long
            tokens=self.tokens,
            in_features=self.in_features,
            out_features=self.out_features,
            form=form,
            dtype=self.dtype,
            parts=self.parts,
        )

    @property
    def parameters(self) -> int:
        """Weights, bias not counted: N·K dense, r·(N + K) as a pair, r·(N + K − r) pivoted.

        A pivoted pair holds an identity (r × r) that is neither stored nor multiplied. The
        precision changes the size of a weight, not their number.
        """
        k, n, rank = self.in_features, self.out_features, self.form.rank
        return pair_parameters(k, n, rank=rank, structure=self.form.structure) if rank else k * n

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of every stored weight: one (N, K) for each width, or V and each U.

        V is (r, K), or (r, K − r) beside the identity of a pivoted pair; a U is (N, r).
        """
        k, rank = self.in_features, self.form.rank
        if not rank:
            return tuple((n, k) for n in self.widths)
        down = (rank, k if self.form.structure == PLAIN else k - rank)
        return (down, *((n, rank) for n in self.widths))

    @property
    def flops(self) -> int:
        """Multiplications and additions of one call: 2·M·parameters."""
        return 2 * self.tokens * self.parameters

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the form as its spelling."""
        return {**vars(self), "form": str(self.form), "parts": list(self.parts)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> LayerShape:
        """The shape back from `to_json`.

        Raises:
            UsageError: an unknown or missing key, or a form that is not spelled as one.
        """
        form, parts = parse_form(values.get("form", "dense")), tuple(values.get("parts", ()))
        return from_mapping(LayerShape, {**values, "form": form, "parts": parts})


def pair_parameters(in_features: Any, out_features: Any, *, rank: Any, structure: str) -> Any:
    """Weights of a pair; of one, or of arrays of them."""
    identity = 0 if structure == PLAIN else rank
    return rank * (in_features + out_features - identity)


def break_even_rank(in_features: int, out_features: int) -> int:
    """The largest rank whose factors hold no more parameters than the dense weight."""
    return (in_features * out_features) // (in_features + out_features)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A linear layer that may be factorized: its module name, shape and place.

    With `members` it is a joint site: layers (of widths `parts`, N = Σ parts) with one input, which
    may be factorized together, with one shared down factor.
    """

    name: str
    in_features: int
    out_features: int
    tokens: int
    group: str = "other"
    block: int | None = None
    has_bias: bool = False
    members: tuple[str, ...] = ()
    parts: tuple[int, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Module names of the layers it stands for."""
        return self.members or (self.name,)

    def shape(self, form: Form = DENSE, dtype: str = "fp32") -> LayerShape:
        """The layer's shape in `form`."""
        return LayerShape(
            tokens=self.tokens,
            in_features=self.in_features,
            out_features=self.out_features,
            form=form,
            dtype=dtype,
            parts=self.parts,
        )


def chosen_sites(sites: Iterable[Site], plan: Plan) -> list[tuple[Site, Form]]:
    """The sites and joint sites that cover every layer once under `plan`, with their forms.

    `sites` are single sites and joint sites. A joint site counts when the plan changes it, and
    then its members do not. A single site without an entry is dense.
    """
    sites = list(sites)
    joint = [s for s in sites if s.members and not plan.get(s.name, DENSE).is_unchanged]
    covered = {name for site in joint for name in site.members}
    alone = [site for site in sites if not site.members and site.name not in covered]
    return [(site, plan.get(site.name, DENSE)) for site in (*alone, *joint)]
