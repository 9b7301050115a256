"""Faithfulness on linear networks, whose answers have closed forms, and against captum."""

from __future__ import annotations

import pytest
import torch

from medsal.attribution.explain import explain
from medsal.errors import UsageError
from medsal.evaluation.faithfulness import deletion, infidelity, insertion, sensitivity_max
from medsal.evaluation.forwards import shifted_control
from tests.evaluation.test_confidence import Linear, every_space, linear
from tests.networks_for_tests import case


@every_space
@pytest.mark.parametrize("steps", [1, 7, 24])
def test_the_curves_of_a_linear_network_have_a_closed_form(space, steps):
    network, image = linear(space, 2.0)
    relevance = torch.randn(3, 1, *space)
    count, fill = relevance[0].numel(), 0.4
    for metric, first in ((insertion, 0.0), (deletion, 1.0)):
        found = metric(network, image, relevance, target=1, score="logit", steps=steps, fill=fill)
        for i in range(3):
            order = relevance[i].flatten().argsort(descending=True)
            curve = []
            for k in range(steps + 1):
                share = torch.full((count,), first, dtype=torch.float64)
                whole, part = divmod(k * count, steps)
                share[order[:whole]] = 1 - first
                if part:
                    share[order[whole]] = first + (1 - 2 * first) * part / steps
                share = share.view(1, *space)
                curve.append(((share * image[i] + (1 - share) * fill) * network.weight).sum() + 2)
            wanted = torch.trapezoid(torch.stack(curve), dx=1 / steps)
            torch.testing.assert_close(found[i], wanted)


@every_space
def test_a_constant_map_fades_the_whole_image(space):
    network, image = linear(space, 2.0)
    blank = torch.full((3, 1, *space), 0.3)
    ends = [network(x)[:, 1].detach() for x in (image, torch.full_like(image, 0.1))]
    for metric in (insertion, deletion):
        found = metric(network, image, blank, target=1, score="logit", fill=0.1, steps=9)
        torch.testing.assert_close(found, (ends[0] + ends[1]) / 2)


@every_space
def test_the_best_order_beats_the_same_map_elsewhere_and_its_reverse_is_worst(space):
    network, image = linear(space)
    best = image.new_tensor(1.0) * (image * network.weight).sum(1, keepdim=True).detach()
    options = {"target": 1, "score": "logit", "steps": 20}
    for metric, sign in ((insertion, 1), (deletion, -1)):
        found = sign * metric(network, image, best, **options)
        chance = sign * shifted_control(metric, network, image, best, **options)
        worst = sign * metric(network, image, -best, **options)
        assert (found > chance).all()
        assert (chance > worst).all()


def test_a_classifier_that_does_not_look_gives_its_confidence():
    network, image = linear((6, 8), 0.3)
    with torch.no_grad():
        network.weight.zero_()
    for metric in (insertion, deletion):
        found = metric(network, image, torch.rand(3, 1, 6, 8), target=1)
        torch.testing.assert_close(found, torch.tensor(0.3, dtype=torch.float64).sigmoid().expand(3))


@every_space
def test_the_gradient_of_a_linear_network_has_no_infidelity(space):
    network, image = linear(space)
    gradient = network.weight.detach().sum(0).expand(3, 1, *space)
    assert infidelity(network, image, gradient, target=1).max() < 1e-20
    assert infidelity(network, image, 5 * gradient, target=1).min() > 1e-3
    assert infidelity(network, image, 5 * gradient, target=1, scaled=True).max() < 1e-20


@every_space
def test_infidelity_of_no_relevance_is_what_noise_does_to_the_score(space):
    network, image = linear(space)
    samples, sigma = 4000, 0.2
    found = infidelity(network, image, torch.zeros(3, 1, *space), target=1, samples=samples, sigma=sigma)
    spread = image.flatten(1).amax(1) - image.flatten(1).amin(1)
    wanted = (sigma * spread) ** 2 * network.weight.detach().sum(0).square().sum()
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0)


def test_infidelity_equals_captum_for_the_same_noise():
    captum = pytest.importorskip("captum.metrics")
    network, image = case("2D")
    relevance = explain(network, image, ["input_x_gradient"], target=1)["input_x_gradient"]
    spread = 0.1 * (image.flatten(1).amax(1) - image.flatten(1).amin(1)).view(-1, 1, 1, 1)
    drawn = [
        torch.randn(12, 16, generator=torch.Generator().manual_seed(hash((0, 21, i))), dtype=torch.float64)
        for i in range(6)
    ]
    draws = iter(drawn)

    def perturb(inputs):
        noise = spread * next(draws)
        return noise, inputs - noise

    with torch.no_grad():
        wanted = captum.infidelity(
            network, perturb, image, relevance, target=1, n_perturb_samples=6, max_examples_per_batch=2
        )
    torch.testing.assert_close(infidelity(network, image, relevance, target=1, samples=6), wanted)


def test_a_map_that_does_not_depend_on_the_image_has_no_sensitivity():
    network, image = linear((6, 8))
    assert sensitivity_max(network, image, "saliency", target=1).max() < 1e-12
    assert sensitivity_max(network, image, lambda _, x: torch.ones_like(x[:, :1])).tolist() == [0, 0, 0]


@every_space
def test_the_sensitivity_of_a_map_in_proportion_to_the_image_is_that_of_the_image(space):
    network, image = linear(space)
    spread = image.flatten(1).amax(1) - image.flatten(1).amin(1)
    found = sensitivity_max(network, image, lambda _, x: x, radius=0.1, samples=5)
    noise = [
        0.1
        * (
            2
            * torch.rand(
                image.shape[1:], generator=torch.Generator().manual_seed(hash((0, 22, i))), dtype=torch.float64
            )
            - 1
        )
        for i in range(5)
    ]
    wanted = spread * max(n.norm() for n in noise) / image.flatten(1).norm(dim=1)
    torch.testing.assert_close(found, wanted)


def test_sensitivity_explains_the_class_of_the_image_without_noise():
    network, image = case("2D")
    predicted = explain(network, image, ["saliency"]).target
    by_name = sensitivity_max(network, image, "saliency", radius=3.0, samples=3)
    torch.testing.assert_close(
        by_name, sensitivity_max(network, image, "saliency", target=predicted, radius=3.0, samples=3)
    )
    assert (by_name > 0).all()


def test_without_an_answer_there_is_none():
    network, image = linear((6, 8))
    relevance = torch.rand(3, 1, 6, 8)
    relevance[1, 0, 2, 2] = torch.nan
    for metric in (insertion, deletion, infidelity):
        assert metric(network, image, relevance).isnan().tolist() == [False, True, False]
    assert sensitivity_max(network, image, lambda _, x: 0 * x).isnan().all()


@pytest.mark.parametrize(
    ("metric", "wrong", "message"),
    [
        (insertion, {"steps": 0}, "steps: wanted at least 1, got 0"),
        (deletion, {"steps": 2.5}, "steps: wanted at least 1, got 2.5"),
        (infidelity, {"sigma": 0}, "infidelity: wanted samples and a sigma above 0"),
        (infidelity, {"samples": 0}, "infidelity: wanted samples and a sigma above 0"),
        (sensitivity_max, {"radius": 0}, "sensitivity_max: wanted samples and a radius above 0"),
    ],
)
def test_what_cannot_be_is_refused(metric, wrong, message):
    network, image = linear((6, 8))
    given = "saliency" if metric is sensitivity_max else torch.rand(3, 1, 6, 8)
    with pytest.raises(UsageError, match=message):
        metric(network, image, given, **wrong)


def test_images_and_maps_are_left_as_they_were():
    network, image = Linear(torch.ones(1, 4, 4)), torch.rand(2, 1, 4, 4)
    relevance = torch.rand(2, 1, 4, 4)
    copies = image.clone(), relevance.clone()
    for metric in (insertion, deletion, infidelity):
        metric(network, image, relevance)
    assert torch.equal(image, copies[0])
    assert torch.equal(relevance, copies[1])
