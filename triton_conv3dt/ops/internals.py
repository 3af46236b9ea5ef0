"""PyTorch's private names that save time on the host. Each is looked up here alone, and has a public way, or an answer
that sends the call through the dispatcher, for a PyTorch that has it no longer: that costs speed and nothing else.
"""

import contextlib
from functools import partial
from types import SimpleNamespace

import torch
from torch import _C
from torch.autograd import forward_ad

AUTOCAST_KEYS = {"cuda": "AutocastCUDA", "cpu": "AutocastCPU"}


def _first(private, public):
    """What `private` gives, `public` where a name in it is unknown."""
    try:
        return private()
    except AttributeError:
        return public


def _perhaps(*_) -> bool:
    """The cautious answer to whether something is active."""
    return True


def _any_requires_grad(*tensors) -> bool:
    return any(t is not None and t.requires_grad for t in tensors)


def _share_storage(a, b) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@contextlib.contextmanager
def _without_autocast():
    with contextlib.ExitStack() as stack:
        for device_type in filter(torch.is_autocast_enabled, AUTOCAST_KEYS):
            stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


def _exclude_autocast():
    keys = [_C.DispatchKeySet(getattr(_C.DispatchKey, key)) for key in AUTOCAST_KEYS.values()]
    return partial(_C._ExcludeDispatchKeyGuard, keys[0] | keys[1])


has_dispatch_mode = _first(lambda: _C._len_torch_dispatch_stack, _perhaps)
has_function_mode = _first(lambda: _C._len_torch_function_stack, _perhaps)
has_transform = _first(lambda: _C._are_functorch_transforms_active, _perhaps)
forward_level = forward_ad if hasattr(forward_ad, "_current_level") else SimpleNamespace(_current_level=0)
has_profiler = _first(lambda: torch.autograd._profiler_enabled, _perhaps)
# of torch.autograd.grad(is_grads_batched=True)
has_vmap_mode = _first(lambda: partial(_C._dispatch_tls_is_dispatch_key_included, _C._dispatch_key_parse("VmapMode")),
                       _perhaps)
# A backward pass may see one after its transform is left.
is_wrapped = _first(lambda: _C._functorch.is_functorch_wrapped_tensor, _perhaps)
is_tracing = _first(lambda: _C._get_tracing_state, torch.jit.is_tracing)
is_autocasting = _first(lambda: _C._is_any_autocast_enabled,
                        lambda: any(map(torch.is_autocast_enabled, AUTOCAST_KEYS)))
any_requires_grad = _first(lambda: _C._any_requires_grad, _any_requires_grad)
is_alias = _first(lambda: _C._is_alias_of, _share_storage)
without_autocast = _first(_exclude_autocast, _without_autocast)
bfloat16_on_cpu = _first(lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported, lambda: False)
float16_on_cpu = _first(lambda: torch.ops.mkldnn._is_mkldnn_fp16_supported, lambda: False)
convolution_precision = _first(lambda: partial(_C._get_fp32_precision_getter, "cuda", "conv"),
                               lambda: torch.backends.cudnn.conv.fp32_precision)
