"""The configuration of a deep model, checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from torchstu.layers.registry import MIXERS
from torchstu.spectral.priors import Prior, positive_int

Activation = Literal["glu", "swiglu"]
Norm = Literal["layer", "rms", "batch"]
NormPosition = Literal["pre", "post"]


@dataclass(frozen=True)
class BackboneConfig:
    """A stack of blocks.

    Attributes:
        d_model: width of the layers.
        num_layers: number of blocks.
        length: L, the memory of the mixers that have one.
        mixer: a name in `torchstu.layers.registry.MIXERS`, or several, taken in turns from the first layer on.
        mixer_options: further arguments of the mixer; with several mixers, those of each under its name.
        activation: "glu" is the paper's block, x + GLU(W GELU(mixer(norm(x)))); "swiglu" that of Flash STU,
            x + mixer(norm(x)) and then x + SwiGLU(norm(x)); None is x + W mixer(x), linear where the mixer is.
        norm: "layer", "rms", "batch" or None; None without activation.
        norm_position: "pre" norms what goes into a part, "post" the sum that comes out of it.
        dropout: in [0, 1); 0 without activation.
        bidirectional: whether each block also mixes the sequence backward; such a model has no state and no step.

    Raises:
        ValueError: numbers out of range, unknown words, a norm or dropout without activation.
        TypeError: numbers that are not integers, options that are no table.
    """

    d_model: int
    num_layers: int
    length: int
    mixer: str | tuple[str, ...] = "TensordotSTU"
    mixer_options: dict[str, Any] = field(default_factory=dict)
    activation: Activation | None = "glu"
    norm: Norm | None = "layer"
    norm_position: NormPosition = "pre"
    dropout: float = 0.0
    bidirectional: bool = False

    def __post_init__(self) -> None:
        for name in ("d_model", "num_layers", "length"):
            positive_int(name, getattr(self, name))
        if not isinstance(self.mixer, str):
            object.__setattr__(self, "mixer", tuple(self.mixer))
        self._check_mixers()
        check_choice("activation", self.activation, (*get_args(Activation), None))
        check_choice("norm", self.norm, (*get_args(Norm), None))
        check_choice("norm_position", self.norm_position, get_args(NormPosition))
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, (int, float)):
            raise TypeError(f"dropout: {self.dropout!r}; it must be a number")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout}; it must be in [0, 1)")
        if not isinstance(self.bidirectional, bool):
            raise TypeError(f"bidirectional: {self.bidirectional!r}; it must be True or False")
        if self.activation is None and self.dropout:
            raise ValueError(f"dropout: {self.dropout}; it must be 0 without activation")
        if self.activation is None and self.norm is not None:
            raise ValueError(f"norm: {self.norm!r}; it must be None without activation")
        if self.norm is None and self.norm_position == "post":
            raise ValueError("norm_position: 'post' without norm; it must be 'pre' then")

    def _check_mixers(self) -> None:
        if not self.mixers:
            raise ValueError("mixer: an empty list; there must be at least one")
        for name in self.mixers:
            check_choice("mixer", name, tuple(MIXERS))
        if not isinstance(self.mixer_options, dict):
            raise TypeError(f"mixer_options: {type(self.mixer_options).__name__}; it must be a table of options")
        if not isinstance(self.mixer, str):
            for name, options in self.mixer_options.items():
                if name not in self.mixer or not isinstance(options, dict):
                    raise ValueError(
                        f"mixer_options: {name!r}; with several mixers it must have a table of options under their names"
                    )

    @property
    def mixers(self) -> tuple[str, ...]:
        """The names that take turns."""
        return (self.mixer,) if isinstance(self.mixer, str) else self.mixer

    def layer(self, index: int) -> tuple[str, dict[str, Any]]:
        """Name and options of the mixer of a layer, counted from 0."""
        name = self.mixers[index % len(self.mixers)]
        return name, dict(self.mixer_options if isinstance(self.mixer, str) else self.mixer_options.get(name, {}))

    def as_dict(self) -> dict[str, Any]:
        """The attributes, priors as their configurations: what JSON can hold, but for a `FilterBank`."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        mixer = self.mixer if isinstance(self.mixer, str) else list(self.mixer)
        return values | {"mixer": mixer, "mixer_options": _plain(self.mixer_options)}


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse what is not among the choices.

    Raises:
        ValueError: see above.
    """
    if value not in choices:
        raise ValueError(f"{name}: {value!r}; it must be one of {', '.join(map(repr, choices))}")


def _plain(options: Any) -> Any:
    if isinstance(options, dict):
        return {name: _plain(value) for name, value in options.items()}
    return options.config if isinstance(options, Prior) else options
