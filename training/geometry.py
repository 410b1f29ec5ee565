"""The arithmetic of convolutions: how large an output is.

Formula: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, relationship 15.
"""

from typing import overload

Shape = tuple[int, int, int]  # (C, H, W)


class InfeasibleError(ValueError):
    """A network that cannot exist for this input: names the layer and the reason."""


@overload
def conv_output_size(
    input_size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int: ...
@overload
def conv_output_size(
    input_size: tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
) -> tuple[int, ...]: ...
def conv_output_size(input_size, kernel_size, stride=1, padding=0, dilation=1):  # type: ignore[no-untyped-def]
    """Pixels along one axis after a convolution: O = floor((I + 2P - D(K - 1) - 1) / S) + 1.

    With dilation D = 1 this is O = floor((I + 2P - K) / S) + 1. Give tuples for one value per axis.
    Raises ValueError for a size, kernel, stride or dilation below 1 or a negative padding, and InfeasibleError
    if the kernel does not fit into the padded input.
    """
    if isinstance(input_size, tuple):
        axes = len(input_size)
        per_axis = [v if isinstance(v, tuple) else (v,) * axes for v in (kernel_size, stride, padding, dilation)]
        if any(len(values) != axes for values in per_axis):
            raise ValueError(f"one value per axis must be given, got {per_axis} for input_size={input_size}")
        return tuple(conv_output_size(*values) for values in zip(input_size, *per_axis, strict=True))
    sizes = {"input_size": input_size, "kernel_size": kernel_size, "stride": stride, "dilation": dilation}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} >= 1 must hold, got {value}")
    if padding < 0:
        raise ValueError(f"padding >= 0 must hold, got {padding}")
    extent = dilation * (kernel_size - 1) + 1
    if extent > input_size + 2 * padding:
        raise InfeasibleError(
            f"a kernel that spans {extent} pixels does not fit into {input_size} + 2*{padding} pixels"
        )
    return (input_size + 2 * padding - extent) // stride + 1
