"""
Batch norm over the global batch: training with several processes gives the statistics and gradients that one process
with all clips would compute.
"""

from contextlib import contextmanager

import torch
import torch.distributed as distributed
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


def several_processes() -> bool:
    """Whether this is one of several processes that train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _BatchNormOverProcesses(torch.autograd.Function):
    """
    Batch norm with the statistics of the global batch, and its gradient. As torch does in one process, it saves the
    unchanged inputs and a few numbers per channel for the backward pass. `mean` and `variance` are constants here: the
    backward pass adds what depends on them.
    """

    @staticmethod
    def forward(ctx, values, weight, bias, mean, variance, count, epsilon):
        ctx.save_for_backward(values, weight, mean, variance)
        ctx.count, ctx.epsilon = count, epsilon
        return _normalised(values, weight, bias, mean, variance, epsilon)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        values, weight, mean, variance = ctx.saved_tensors
        gradient_of_values = gradient
        sums = mean.new_zeros(2, len(mean))
        if values.numel():
            gradient_of_values, *own_sums = torch.ops.aten.native_batch_norm_backward(
                gradient, values, weight, mean, variance, None, None, False, ctx.epsilon, [True, True, True]
            )
            sums = torch.stack(own_sums)
        gradient_of_weight, gradient_of_bias = sums.clone()
        distributed.all_reduce(sums)
        through_variance, through_mean = -weight * (variance + ctx.epsilon).rsqrt() * sums / ctx.count
        gradient_of_values = gradient_of_values + _normalised(
            values, through_variance, through_mean, mean, variance, ctx.epsilon
        )
        return gradient_of_values, gradient_of_weight, gradient_of_bias, None, None, None, None


def _normalised(
    values: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """`(values - mean) / sqrt(variance + epsilon) * weight + bias` for each channel, in the dtype of the values."""
    if not values.numel():
        return values.clone()
    return torch.native_batch_norm(values, weight, bias, mean, variance, False, 0.0, epsilon)[0]


class _SynchronizedBatchNorm:
    """
    Mixin for `nn.BatchNorm1d` and `nn.BatchNorm2d`: when several processes train, the statistics are those of the whole
    global batch, so that two processes train what one would. On GPUs this is torch's SyncBatchNorm, which rejects CPU
    tensors.

    A batch with one value per channel has no variance: it is normalised with the running statistics, which it does not
    update.
    """

    # What torch's SyncBatchNorm needs from its layer.
    process_group = None
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(values)
        if not several_processes():
            return self._by_running_statistics(values) if _has_one_value(values) else super().forward(values)
        if values.device.type == "cpu":
            return self._forward_synchronized(values)
        return self._forward_on_gpus(values)

    def _by_running_statistics(self, values: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(
            values, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )

    def _forward_on_gpus(self, values: torch.Tensor) -> torch.Tensor:
        if values.numel() > values.shape[1]:
            return nn.SyncBatchNorm.forward(self, values)
        # If all processes together have a single value, torch's running variance becomes 0 / 0.
        kept = [statistic.clone() for statistic in (self.running_mean, self.running_var)]
        normalised = nn.SyncBatchNorm.forward(self, values)
        is_number = self.running_var.isfinite()
        for statistic, before in zip((self.running_mean, self.running_var), kept, strict=True):
            statistic.copy_(torch.where(is_number, statistic, before))
        return normalised

    def _forward_synchronized(self, values: torch.Tensor) -> torch.Tensor:
        mean, variance, count = _statistics_over_processes(values)
        if count <= 1:
            return self._by_running_statistics(values)
        self._update_running_statistics(mean, variance * count / (count - 1))
        dtype = torch.promote_types(values.dtype, torch.float32)
        weight, bias, mean, variance = (each.to(dtype) for each in (self.weight, self.bias, mean, variance))
        return _BatchNormOverProcesses.apply(values, weight, bias, mean, variance, count, self.eps)

    @torch.no_grad()
    def _update_running_statistics(self, mean: torch.Tensor, unbiased_variance: torch.Tensor) -> None:
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), self.momentum)


def _has_one_value(values: torch.Tensor) -> bool:
    """Whether there is one value per channel."""
    return values.numel() == values.shape[1]


@torch.no_grad()
def _statistics_over_processes(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """
    -> mean and variance `(channels,)` over the values of all processes, in float64, and their number per channel.

    Each process computes the variance about its own mean. The moments of the whole are then summed in float64, which
    loses none of float32's precision.
    """
    num_channels = values.shape[1]
    num_values = values.numel() // num_channels
    moments = torch.zeros(2 * num_channels + 1, dtype=torch.float64)
    if num_values:
        exact_values = values.to(torch.promote_types(values.dtype, torch.float32))
        variance, mean = torch.var_mean(exact_values, [0, *range(2, values.ndim)], correction=0)
        mean_of_squares = variance.double() + mean.double().square()
        moments = num_values * torch.cat([mean.double(), mean_of_squares, moments.new_ones(1)])
    distributed.all_reduce(moments)
    count = int(moments[-1])
    mean, mean_of_squares = (moments[:-1] / max(count, 1)).view(2, num_channels)
    return mean, (mean_of_squares - mean.square()).clamp(min=0), count


class SynchronizedBatchNorm1d(_SynchronizedBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the global batch."""


class SynchronizedBatchNorm2d(_SynchronizedBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the global batch."""


class WarmedUpBatchNorm1d(SynchronizedBatchNorm1d):
    """
    `SynchronizedBatchNorm1d` whose running statistics begin as the plain mean over the first batches. torch's begin at
    mean 0 and variance 1: where the true variance is 1e-5, they are wrong for the first hundred batches.
    """

    _warms_up = True  # on an accelerator each look at `num_batches_tracked` waits for it

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        momentum = self.momentum
        if not (self.training and self._warms_up and momentum):
            return super().forward(values)
        share_of_this_batch = 1 / (int(self.num_batches_tracked) + 1)
        self._warms_up = share_of_this_batch > momentum
        self.momentum = max(momentum, share_of_this_batch)
        try:
            return super().forward(values)
        finally:
            self.momentum = momentum


@contextmanager
def running_statistics_kept(module: nn.Module):
    """Freeze the running statistics of the batch norms in `module`: a recomputed forward must not count twice."""
    batch_norms = [
        layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.num_batches_tracked is not None
    ]
    kept = [(layer, layer.momentum, layer.num_batches_tracked.clone()) for layer in batch_norms]
    for layer in batch_norms:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, num_batches_tracked in kept:
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(num_batches_tracked)


__all__ = [
    "SynchronizedBatchNorm1d",
    "SynchronizedBatchNorm2d",
    "WarmedUpBatchNorm1d",
    "running_statistics_kept",
    "several_processes",
]
