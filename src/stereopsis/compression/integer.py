"""Exact networks: what decides a probability at the decoder is computed in whole numbers.

Float networks give other last bits under another library, memory format or number of threads, and one changed table
index makes everything behind it wrong (Balle, Johnston, Minnen, "Integer networks for data compression", ICLR 2019).
Here weights are int8 with one scale a channel and activations int16 with a fixed number of fraction bits. Both are
carried in float64, where every partial sum is a whole number below 2^53, so that no order of summation changes it.

:class:`IntegerNet` is trained as it will run: ``forward`` rounds weights and activations with straight-through
gradients, ``freeze`` stores the whole numbers, and ``integer`` computes with those alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.compression.layers import bounded, round_through

FRACTION = 8  # bits behind the point of an activation, unless a layer was calibrated: [-128, 128) in steps of 1/256
LIMIT = 2**15 - 1  # of an activation
WEIGHT_LIMIT = 127
MULTIPLIER_BITS = 15
EXACT = 2**53
IMPLYING = ("weight_q", "multiplier", "shift", "fractions")  # what float weights follow from


def to_fixed(x: Float[Tensor, "*shape"], fraction: int = FRACTION) -> Float[Tensor, "*shape"]:
    """The nearest value that an activation can have, with the gradient of the identity inside its range."""
    step = 2.0**-fraction
    return bounded(round_through(x / step) * step, -LIMIT * step, LIMIT * step)


def shift_right(x: Tensor, bits: int) -> Tensor:
    """x / 2^bits, rounded to nearest, of whole numbers in int64."""
    return (x + (1 << (bits - 1))) >> bits


class IntegerConv(nn.Module):
    """A convolution, or a transposed one, and maybe ReLU, that runs in float for training and in whole numbers after.

    Args:
        like: the float layer whose shape and values it takes.
        relu: whether ReLU follows.
    """

    weight_q: Tensor
    bias_q: Tensor
    multiplier: Tensor
    shift: Tensor
    fractions: Tensor

    def __init__(self, like: nn.Conv2d | nn.ConvTranspose2d, relu: bool) -> None:
        super().__init__()
        assert like.bias is not None
        self.transposed = isinstance(like, nn.ConvTranspose2d)
        self.weight, self.bias = like.weight, like.bias
        self.relu = relu
        self.geometry: dict[str, Any] = {"stride": like.stride, "padding": like.padding}
        if isinstance(like, nn.ConvTranspose2d):
            self.geometry["output_padding"] = like.output_padding
        channels = like.out_channels
        self.register_buffer("weight_q", torch.zeros(like.weight.shape, dtype=torch.int8))
        self.register_buffer("bias_q", torch.zeros(channels, dtype=torch.int64))
        self.register_buffer("multiplier", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("shift", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("fractions", torch.tensor([FRACTION, FRACTION], dtype=torch.int32))  # of input and output

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        """What :meth:`integer` would give, but for float rounding; the gradients are those of the float layer."""
        scale = self._scale()
        weight = round_through(self.weight / scale) * scale
        out = self._convolve(x, weight, self.bias)
        return to_fixed(out.relu() if self.relu else out, int(self.fractions[1]))

    def integer(self, x: Float64[Tensor, "b c h w"]) -> Float64[Tensor, "b _ _ _"]:
        """Activations to activations, whole numbers of 16 bits in float64."""
        # cuDNN may choose transforms whose sums are no whole numbers
        with torch.backends.cudnn.flags(enabled=False):
            total = self._convolve(x, self.weight_q.double(), self.bias_q.double())
        total = total * self.multiplier.double().view(-1, 1, 1)
        out = (total / (1 << self.shift.long()).double().view(-1, 1, 1) + 0.5).floor()
        return out.clamp(0 if self.relu else -LIMIT, LIMIT)

    @torch.no_grad()
    def freeze(self) -> None:
        """Store the whole numbers that the float weights stand for.

        Raises:
            ValueError: a sum could leave the numbers that float64 holds exactly.
        """
        scale = self._scale().double()
        before, after = self.fractions.tolist()
        weight = (self.weight.double() / scale).round()
        scale = scale.flatten()
        bias = (self.bias.double() * 2.0**before / scale).round()
        # scale 2^(after - before) = multiplier / 2^shift, with a multiplier of 15 bits
        exponent = torch.frexp(scale)[1]
        shift = MULTIPLIER_BITS - exponent + before - after
        multiplier = torch.ldexp(scale, MULTIPLIER_BITS - exponent).round()
        sums = weight.abs().transpose(0, 1).flatten(1) if self.transposed else weight.abs().flatten(1)
        largest = ((LIMIT * sums.sum(1) + bias.abs()) * multiplier).max().item()
        if largest >= EXACT or int(shift.min()) < 1:
            raise ValueError(
                f"a sum of this layer could reach {largest:.3g}, but float64 is exact below 2^53; shrink its weights."
            )
        self.weight_q.copy_(weight)
        self.bias_q.copy_(bias)
        self.multiplier.copy_(multiplier)
        self.shift.copy_(shift)

    def derived(self, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """The float weights of a state that lacks them: such that :meth:`freeze` finds its whole numbers again."""
        if f"{prefix}weight" in state or any(prefix + name not in state for name in IMPLYING):
            return {}
        whole, multiplier, shift, fractions = (state[prefix + name] for name in IMPLYING)
        before, after = fractions.tolist()
        scale = torch.ldexp(multiplier.double(), before - after - shift)
        weight = whole.double() * scale.view((1, -1, 1, 1) if self.transposed else (-1, 1, 1, 1))
        return {f"{prefix}weight": weight.float()}

    def _scale(self) -> Tensor:
        """What one step of each output channel's weights stands for."""
        others, view = ((0, 2, 3), (1, -1, 1, 1)) if self.transposed else ((1, 2, 3), (-1, 1, 1, 1))
        largest = self.weight.detach().abs().amax(others).view(view)
        return largest.clamp(min=2.0**-16) / WEIGHT_LIMIT

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        convolve: Callable[..., Tensor] = F.conv_transpose2d if self.transposed else F.conv2d
        return convolve(x, weight, bias, **self.geometry)


class IntegerNet(nn.Sequential):
    """A chain of :class:`IntegerConv`.

    Args:
        net: float convolutions, each followed by ReLU or nothing.

    Raises:
        ValueError: another layer, which has no exact form.
    """

    def __init__(self, net: nn.Sequential) -> None:
        layers = list(net)
        chain = []
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                chain.append(IntegerConv(layer, relu=isinstance(following, nn.ReLU)))
            elif not isinstance(layer, nn.ReLU):
                raise ValueError(f"{type(layer).__name__} has no exact form; use convolutions and ReLU alone.")
        super().__init__(*chain)

    def integer(self, x: Float64[Tensor, "b c h w"]) -> Float64[Tensor, "b _ _ _"]:
        """The chain in whole numbers; see :meth:`IntegerConv.integer`."""
        for layer in self:
            assert isinstance(layer, IntegerConv)
            x = layer.integer(x)
        return x

    def freeze(self) -> None:
        """Store the whole numbers of every layer; see :meth:`IntegerConv.freeze`."""
        for layer in self:
            assert isinstance(layer, IntegerConv)
            layer.freeze()


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model whose exact networks are frozen, without the float weights that follow from it."""
    implied = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, IntegerConv)}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in implied}


@torch.no_grad()
def quantize(net: nn.Sequential, samples: Iterable[Float[Tensor, "b c h w"]]) -> IntegerNet:
    """The exact form of a network that was trained in float.

    Args:
        net: float convolutions, each followed by ReLU or nothing.
        samples: inputs; each layer's fraction bits are the most that hold twice the largest activation seen.

    Returns:
        The frozen chain. Its input has ``chain[0].fractions[0]`` fraction bits, its output ``chain[-1].fractions[1]``.

    Raises:
        ValueError: no samples, or a layer that has no exact form.
    """
    exact = IntegerNet(net)
    largest = [0.0] * (len(exact) + 1)
    for x in samples:
        outputs = [x]
        for layer in exact:
            assert isinstance(layer, IntegerConv)
            y = layer._convolve(outputs[-1], layer.weight, layer.bias)
            outputs.append(y.relu() if layer.relu else y)
        largest = [max(known, y.abs().max().item()) for known, y in zip(largest, outputs, strict=True)]
    if not any(largest):
        raise ValueError("there are no samples to calibrate with; give inputs that the network will see.")
    bits = [int(torch.tensor(LIMIT / (2 * value or 1.0), dtype=torch.float32).log2().floor()) for value in largest]
    for number, layer in enumerate(exact):
        assert isinstance(layer, IntegerConv)
        layer.fractions.copy_(torch.tensor(bits[number : number + 2], dtype=torch.int32))
    exact.freeze()
    return exact
