"""What a model holds, to tell whether a defense has left it as it was."""

import torch
from transformers import PreTrainedModel


class State:
    """Modules, tensors, hooks and attributes of a model at one time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._hooks = {name: self._hooks_of(module) for name, module in self._modules.items()}
        self._tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self._gradients = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._attributes = set(vars(model))
        self._training = model.training

    def assert_same(self) -> None:
        """The very same modules stand there, with the same numbers in them and nothing beside them."""
        now = State(self._model)
        assert list(now._modules) == list(self._modules)
        assert all(now._modules[name] is module for name, module in self._modules.items())
        assert now._hooks == self._hooks
        assert list(now._tensors) == list(self._tensors)
        assert all(torch.equal(now._tensors[name], tensor) for name, tensor in self._tensors.items())
        assert now._gradients == self._gradients
        assert now._attributes == self._attributes
        assert now._training == self._training

    @staticmethod
    def _hooks_of(module: torch.nn.Module) -> tuple[int, int]:
        return len(module._forward_hooks), len(module._forward_pre_hooks)
