"""Features of every kind of observation, in the space's order."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from agents.core.flat import FlatParameters
from agents.core.spaces import observation_tensors
from agents.encoders import MLP, make_encoder
from agents.encoders.cnn import CNN, is_image
from agents.encoders.mlp import output, output_and_backward
from agents.encoders.numpy_mlp import FEW_ROWS

CPU = torch.device("cpu")


def features(space, batch):
    return make_encoder(space)(observation_tensors(space, batch, CPU))


def test_vectors_and_integers_in_the_space_s_order():
    space = spaces.Dict(
        OrderedDict(
            z=spaces.Box(-9, 9, (2,)),
            which=spaces.Discrete(3, start=1),
            a=spaces.MultiDiscrete([2, 3], start=[0, 4]),
            on=spaces.MultiBinary(2),
            one=spaces.Box(-9, 9, ()),
            grid=spaces.Box(-9, 9, (2, 2), np.int32),
        )
    )
    batch = {
        "z": np.array([[1.5, -2.0]], np.float32),
        "which": np.array([3]),
        "a": np.array([[1, 5]]),
        "on": np.array([[1, 0]], np.int8),
        "one": np.array([7.0], np.float32),
        "grid": np.array([[[1, 2], [3, 4]]], np.int32),
    }
    expected = [1.5, -2.0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 7, 1, 2, 3, 4]
    encoder = make_encoder(space)
    tensors = observation_tensors(space, batch, CPU)
    assert encoder(tensors).tolist() == [expected]
    assert encoder(dict(reversed(tensors.items()))).tolist() == [expected]
    assert encoder.out_dim == len(expected)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,)),
        spaces.Box(-1, 1, (), np.float64),
        spaces.Box(0, 255, (4,), np.uint8),
        spaces.Box(0, 255, (8, 8, 3), np.uint8),
        spaces.Box(0, 255, (3, 40, 36), np.uint8),
        spaces.Discrete(5),
        spaces.MultiBinary(4),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (2,)))),
    ],
    ids=str,
)
def test_one_row_of_floats_an_observation(space):
    space.seed(0)
    out = features(space, batch_space(space, 6).sample())
    assert out.dtype == torch.float32
    assert out.shape == (6, make_encoder(space).out_dim)
    assert bool(out.isfinite().all())


def test_spaces_without_features_are_refused():
    with pytest.raises(ValueError, match="Text observations"):
        make_encoder(spaces.Dict({"graph": spaces.Graph(spaces.Discrete(2), None)}))


def test_images_are_told_from_vectors():
    assert is_image(spaces.Box(0, 255, (210, 160, 3), np.uint8))
    assert is_image(spaces.Box(0, 255, (4, 84, 84), np.uint8))
    assert not is_image(spaces.Box(0, 1, (84, 84, 3), np.float32))
    assert not is_image(spaces.Box(0, 255, (128,), np.uint8))
    assert not is_image(spaces.Box(0, 255, (2, 4, 3), np.uint8))


@pytest.mark.parametrize("size", [(8, 8), (35, 9), (36, 36), (84, 60)])
def test_channels_first_and_last_see_the_same_picture(size):
    image = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    last, first = CNN((*size, 3)), CNN((3, *size))
    first.load_state_dict(last.state_dict())
    for seen, same in zip(last(image), first(image.movedim(-1, 1).contiguous()), strict=True):
        torch.testing.assert_close(seen, same)
    assert bool((last(image)[0] != last(255 - image)[0]).any())


# --- the MLP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "gelu"])
def test_an_mlp_is_its_layers(activation):
    net = MLP(3, (5, 4), 2, activation)
    modules = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "elu": torch.nn.ELU, "gelu": torch.nn.GELU}
    chain = []
    for layer in net.layers:
        chain += [layer, modules[activation]()]
    x = torch.randn(7, 3)
    torch.testing.assert_close(net(x), torch.nn.Sequential(*chain[:-1])(x))


def test_first_weights():
    net = MLP(6, (8,), 3, output_gain=0.01)
    hidden, output = (layer.weight.detach() for layer in net.layers)
    torch.testing.assert_close(hidden.t() @ hidden, 2 * torch.eye(6))
    torch.testing.assert_close(output @ output.t(), 1e-4 * torch.eye(3))
    assert all(bool((layer.bias == 0).all()) for layer in net.layers)
    last = MLP(6, (8,), 3, output_gain=3e-3, init="fan_in").layers[-1]
    assert 1e-3 < float(last.weight.detach().abs().max()) <= 3e-3
    with pytest.raises(ValueError, match="tanh, relu, elu, gelu"):
        MLP(6, (8,), 3, "swish")


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (5,), (8, 3, 4)])
def test_the_hand_written_backward_pass_is_autograd_s(activation, hidden, flat):
    net = MLP(4, hidden, 2, activation)
    if flat:  # biases behind their weights
        FlatParameters(net)
    for p in net.parameters():
        torch.nn.init.normal_(p)
    assert net.has_backward
    x, grad = torch.randn(9, 4), torch.randn(9, 2)
    expected = torch.autograd.grad(net(x), list(net.parameters()), grad)
    for p in net.parameters():  # is overwritten
        p.grad = torch.full_like(p, 123.0) if p.grad is None else p.grad.fill_(123.0)
    out, passed = net.torch.trace(x)
    torch.testing.assert_close(out, net(x).detach())
    net.torch.backward(passed, grad)
    for p, g in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)
        p.grad.fill_(123.0)
    array, arrays = net.numpy.trace(x.numpy())
    np.testing.assert_allclose(array, out, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(net.numpy.forward(x.numpy()), array)
    net.numpy.backward(arrays, grad.numpy())
    for p, g in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)


def test_passes_do_not_disturb_each_other():
    net, other = MLP(3, (5,), 2, "relu"), MLP(3, (5,), 2, "relu")
    FlatParameters(net, other)
    first, second, grad = torch.randn(6, 3), torch.randn(6, 3), torch.randn(6, 2)
    expected = torch.autograd.grad(net(first), list(net.parameters()), grad)
    out, passed = net.torch.trace(first[:, :1], first[:, 1:])
    kept = out.clone()
    _, later = net.torch.trace(second)
    with torch.inference_mode():
        net(second)
    net.torch.backward(passed, grad)
    for p, g in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)
    with torch.no_grad():
        net(second)
    torch.testing.assert_close(out, kept, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="gone back through already"):
        net.torch.backward(passed, grad)
    net.torch.input_gradient(later, grad)
    assert all(float(p.grad.abs().sum()) == 0 for p in other.parameters())


def test_passes_follow_the_parameters_to_where_they_move():
    net, x = MLP(4, (5,), 2, "relu"), torch.randn(200, 4)
    net.torch.forward(x)
    before = FlatParameters(net)
    net.torch.forward(x)
    flat = FlatParameters(net)
    with torch.no_grad():
        before.vector.fill_(float("nan"))
        flat.vector.mul_(2.0)
    expected = net(x).detach()
    torch.testing.assert_close(net.torch.forward(x), expected)
    torch.testing.assert_close(copy.deepcopy(net).torch.forward(x), expected)
    torch.testing.assert_close(net.double().torch.forward(x.double()).float(), expected)


def test_numpy_passes_follow_the_parameters_to_where_they_move():
    net, x = MLP(4, (5,), 2), torch.randn(3, 4)
    other = copy.deepcopy(net)
    before = net.numpy.forward(x.numpy())
    FlatParameters(net)  # moves them
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2.0)
    out, inputs = net.numpy.trace(x.numpy())
    torch.testing.assert_close(torch.from_numpy(out), net(x).detach())
    net.numpy.backward(inputs, np.ones((3, 2), np.float32))
    assert all(float(p.grad.abs().sum()) > 0 for p in net.parameters())
    np.testing.assert_array_equal(other.numpy.forward(x.numpy()), before)


@pytest.mark.parametrize("rows", [FEW_ROWS, FEW_ROWS + 1])
def test_few_rows_and_many_give_the_same(rows):
    encoder, net, obs = make_encoder(spaces.Box(-1, 1, (3,))), MLP(3, (5,), 2), torch.randn(rows, 3)
    torch.testing.assert_close(output(encoder, net, obs), net(obs).detach())
    torch.testing.assert_close(output_and_backward(encoder, net, obs)[0], net(obs).detach())


@pytest.mark.parametrize("activation", ["tanh", "elu"])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,)),
        spaces.Box(0, 255, (3,), np.uint8),
        spaces.Discrete(4),
        spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "speed": spaces.Box(-1, 1, (2,))}),
    ],
    ids=str,
)
def test_every_observation_s_backward_pass_is_autograd_s(space, activation):
    encoder = make_encoder(space)
    net = MLP(encoder.out_dim, (5,), 2, activation)
    obs = observation_tensors(space, batch_space(space, 6).sample(), CPU)
    params = [*encoder.parameters(), *net.parameters()]
    grad = torch.randn(6, 2)
    expected = torch.autograd.grad(net(encoder(obs)), params, grad)
    for p in params:
        p.grad = torch.full_like(p, 123.0)
    out, backward = output_and_backward(encoder, net, obs)
    assert not out.requires_grad
    torch.testing.assert_close(out, net(encoder(obs)).detach())
    backward(grad)
    for p, g in zip(params, expected, strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_the_gradient_of_chosen_inputs_is_autograd_s(activation, hidden):
    net, x, grad = MLP(4, hidden, 2, activation), torch.randn(6, 4, requires_grad=True), torch.randn(6, 2)
    (expected,) = torch.autograd.grad(net(x), x, grad)
    _, passed = net.torch.trace(x.detach())
    torch.testing.assert_close(net.torch.input_gradient(passed, grad), expected)
    _, passed = net.torch.trace(x.detach())
    torch.testing.assert_close(net.torch.input_gradient(passed, grad, first=3), expected[:, 3:])
