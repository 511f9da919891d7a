"""The closed-form prior: its score, and every method's descent to the point its equation predicts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill3d.errors import SettingsError
from distill3d.methods import create, process, surrogate_loss, weight
from distill3d.methods.asd import ASDSettings
from distill3d.methods.bridge import BridgeSettings
from distill3d.methods.csd import CSDSettings
from distill3d.methods.gradient import GradientSettings
from distill3d.methods.nfsd import NFSDSettings
from distill3d.methods.sds import SDSSettings
from distill3d.methods.tbsd import TBSDSettings
from distill3d.priors.analytic import GaussianPrior
from distill3d.priors.base import Prior
from distill3d.priors.noise_schedule import alpha_sigma, alphas_cumprod, betas

SHAPE = (3, 2, 2)


def means(count: int, seed: int = 0) -> list[Tensor]:
    return list(torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)))


MU_Y, MU_0, MU_N, MU_BAD = means(4)
PRIOR = GaussianPrior(
    {"a cube": MU_Y, "": MU_0, "ugly": MU_N, "a cube, blurry": MU_BAD},
    std={"a cube": 0.2, "": 2.0, "ugly": 3.0, "a cube, blurry": 2.5},
)


def test_prior_answers_the_protocol() -> None:
    assert isinstance(PRIOR, Prior)
    assert (PRIOR.T, PRIOR.latent_shape, PRIOR.image_size, PRIOR.dtype) == (1000, SHAPE, 2, torch.float32)
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    latents = PRIOR.encode(images)
    torch.testing.assert_close(latents, torch.nn.functional.avg_pool2d(images, 2))
    latents.sum().backward()
    torch.testing.assert_close(images.grad, torch.full((2, 3, 4, 4), 0.25))
    small = torch.rand(1, *SHAPE)
    assert torch.equal(PRIOR.encode(small), small) and torch.equal(PRIOR.decode(small * 3), (small * 3).clamp(max=1))
    assert not PRIOR.predict_noise(small.requires_grad_(), torch.tensor([5]), PRIOR.embed([""])).requires_grad


@pytest.mark.parametrize("t", [0, 20, 500, 999])
def test_noise_prediction_is_the_score_of_the_noised_mixture(t: int) -> None:
    std = {"one": torch.rand(SHAPE) + 0.3, "many": 0.5}
    mix = torch.stack(means(3, seed=4))
    prior = GaussianPrior({"one": MU_Y, "many": mix}, std)
    times = torch.tensor([t, t])
    x_t = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(t))
    alpha, sigma = (float(v[0]) for v in prior.alpha_sigma(times))
    got = prior.predict_noise(x_t, times, prior.embed(["one", "many"]))
    x = x_t.double().requires_grad_()
    one = torch.distributions.Normal(alpha * MU_Y.double(), ((alpha * std["one"].double()) ** 2 + sigma**2).sqrt())
    parts = torch.distributions.Normal(alpha * mix.double(), math.sqrt((alpha * 0.5) ** 2 + sigma**2))
    log_p = one.log_prob(x[0]).sum() + parts.log_prob(x[1]).sum((1, 2, 3)).logsumexp(0)
    (score,) = torch.autograd.grad(log_p, x)
    torch.testing.assert_close(got.double(), -sigma * score, rtol=1e-4, atol=1e-4)


def test_null_prompt_mixes_prompts_of_different_spread_by_their_density() -> None:
    prior = GaussianPrior({"wide": MU_0, "narrow": MU_Y}, {"wide": 1.5, "narrow": 0.3})
    t = torch.tensor([200])
    alpha, sigma = (float(v) for v in prior.alpha_sigma(t))
    x = (alpha * MU_Y + 0.9 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))).double().requires_grad_()
    log_p = torch.stack(
        [
            torch.distributions.Normal(alpha * mu.double(), math.hypot(alpha * std, sigma)).log_prob(x).sum()
            for mu, std in ((MU_0, 1.5), (MU_Y, 0.3))
        ]
    )
    assert log_p.softmax(0).min() > 0.01  # both take part
    (score,) = torch.autograd.grad(log_p.logsumexp(0), x)
    got = prior.predict_noise(x.detach().float()[None], t, prior.embed([""]))[0]
    torch.testing.assert_close(got.double(), -sigma * score, rtol=1e-4, atol=1e-5)


def test_the_best_guess_of_the_noise_is_the_prediction() -> None:
    # Among samples of the data that end near one x_t, the mean of their eps is the prediction (Tweedie).
    prior = GaussianPrior({"x": torch.full((1, 1, 1), 0.5)}, 0.3)
    generator = torch.Generator().manual_seed(0)
    alpha, sigma = (float(v) for v in prior.alpha_sigma(torch.tensor([300])))
    x = 0.5 + 0.3 * torch.randn(400_000, generator=generator)
    eps = torch.randn(400_000, generator=generator)
    x_t = alpha * x + sigma * eps
    near = (x_t - 0.9).abs() < 0.02
    got = prior.predict_noise(torch.full((1, 1, 1, 1), 0.9), torch.tensor([300]), prior.embed(["x"]))
    assert got.item() == pytest.approx(
        eps[near].mean().item(), abs=4 * eps[near].std().item() / near.sum().sqrt().item()
    )


def test_every_sample_has_its_own_timestep_and_text() -> None:
    x_t, t, texts = torch.rand(3, *SHAPE), torch.tensor([10, 500, 900]), ["a cube", "", "ugly"]
    together = PRIOR.predict_noise(x_t, t, PRIOR.embed(texts))
    for i in range(3):
        alone = PRIOR.predict_noise(x_t[i : i + 1], t[i : i + 1], PRIOR.embed(texts[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone)


def test_texts_are_found_by_their_beginning_and_the_empty_one_is_the_mixture() -> None:
    prior = GaussianPrior({"a cube": MU_Y, "a cube, back view": MU_N, "a ball": torch.stack([MU_0, MU_BAD])}, 0.5)
    code = prior.embed(["a cube, front view", "a cube", "a cube, back view, blurry", "a ball", ""])
    assert torch.equal(code[0], code[1]) and not torch.equal(code[0], code[2]) and code.shape[1] == 4
    same_mixture = GaussianPrior({"": torch.stack([MU_Y, MU_N, MU_0, MU_BAD])}, 0.5)
    x_t, t = torch.rand(1, *SHAPE), torch.tensor([400])
    torch.testing.assert_close(
        prior.predict_noise(x_t, t, code[4:]), same_mixture.predict_noise(x_t, t, same_mixture.embed([""]))
    )
    torch.testing.assert_close(
        prior.predict_noise(x_t, t, code[:1]), prior.predict_noise(x_t, t, prior.embed(["a cube"]))
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GaussianPrior({}), "at least one text"),
        (lambda: GaussianPrior({"a": torch.zeros(2)}), "of one shape"),
        (lambda: GaussianPrior({"a": torch.zeros(3, 2, 2), "b": torch.zeros(3, 4, 4)}), "of one shape"),
        (lambda: GaussianPrior({"a": MU_Y}, 0.0), "above 0"),
        (lambda: GaussianPrior({"a": MU_Y}, {"b": 1.0}), "for every text"),
        (lambda: PRIOR.embed(["a ball"]), "a cube"),
        (lambda: PRIOR.encode(torch.zeros(1, 4, 2, 2)), "3 channels"),
        (lambda: PRIOR.alpha_sigma(torch.tensor([1000])), "0..999"),
        (lambda: PRIOR.alpha_sigma(torch.tensor([-1])), "0..999"),
        (lambda: betas("cosine"), "squaredcos_cap_v2"),
        (lambda: betas(T=0), "at least one timestep"),
        (lambda: betas(beta_start=0.5, beta_end=0.1), "beta_start <= beta_end"),
    ],
)
def test_mistakes_say_what_to_write_instead(make, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make()


@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_noise_tables_are_those_of_diffusers(kind: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(beta_schedule=kind, beta_start=0.001, beta_end=0.015, num_train_timesteps=500)
    ours = alphas_cumprod(kind, 0.001, 0.015, 500)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours.float(), theirs.alphas_cumprod, rtol=2e-4, atol=1e-6)
    alpha, sigma = alpha_sigma(ours, torch.arange(500))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(500, 1, 1, 1))


# ---- distillation on the prior: everything is linear in eps, so +-eps pairs make the mean over noise exact


T_FIXED, T_MIN = 300, 20
SETTINGS = {
    "SDS": SDSSettings(guidance=5.0),  # type: ignore[arg-type]
    "CSD": CSDSettings(1, -0.5, -0.5),  # type: ignore[arg-type]
    "ASD": ASDSettings(guidance=5.0, random=False),  # type: ignore[arg-type]
    "TBSD": TBSDSettings(omega=2.0, unit_norm=True, modifier="blurry"),  # type: ignore[arg-type]
    "NFSD": NFSDSettings(guidance=5.0, negative="ugly"),  # type: ignore[arg-type]
    "BRIDGE": BridgeSettings(k=3.0, switch=0.0, target="", modifier="ugly", source="modifier"),  # type: ignore[arg-type]
}
"""Every method whose gradient is linear in the predictions; BSD's is not, see ``test_relatives``."""


def coefficients(name: str, t: int) -> list[tuple[float, str, int]]:
    """Expected gradient / w as (coefficient, text, timestep) of mean predictions, written from the equations."""
    plus = t + math.floor(0.1 * (t - T_MIN))
    return {
        "SDS": [(5, "a cube", t), (-4, "ugly", t)],
        "CSD": [(1, "a cube", t), (-0.5, "ugly", t), (-0.5, "", t)],
        "ASD": [(5, "a cube", t), (-4, "ugly", t), (-1, "a cube", plus)],
        # p = 0.5 and lam_mgda = 1/2: lam = 0.75, so shape 0.75 (y - 0) and texture 0.25 (y - bad), times omega
        "TBSD": [(2, "a cube", t), (-1.5, "", t), (-0.5, "a cube, blurry", t)],
        "NFSD": [(5, "a cube", t), (-4, "", t), (-1, "ugly", t)],
        "BRIDGE": [(3, "a cube", t), (-3, "ugly", t)],
    }[name]


STD = {"a cube": 0.2, "": 2.0, "ugly": 3.0, "a cube, blurry": 2.5}
MU = {"a cube": MU_Y, "": MU_0, "ugly": MU_N, "a cube, blurry": MU_BAD}


def line(name: str, t: int) -> tuple[float, Tensor]:
    """Slope k and rest r of the expected gradient ``w (k x - r)``: a Gaussian's mean prediction is
    ``sigma alpha (x - mu) / (alpha^2 std^2 + sigma^2)``."""
    abar = alphas_cumprod()
    k, r = 0.0, torch.zeros(SHAPE, dtype=torch.float64)
    for c, text, time in coefficients(name, t):
        alpha, sigma = float(abar[time].sqrt()), float((1 - abar[time]).sqrt())
        slope = c * sigma * alpha / ((alpha * STD[text]) ** 2 + sigma**2)
        k, r = k + slope, r + slope * MU[text].double()
    return k, r


def latent_gradient(name: str, x: Tensor, eps: Tensor, progress: float = 0.5) -> Tensor:
    """One step of score distillation on the prior, as the loop does it."""
    method = create(name, SETTINGS[name])
    t = torch.full((len(x),), T_FIXED)
    t_plus = method.shift(t, T_MIN, torch.Generator(), PRIOR.T)
    texts = method.texts("a cube", "ugly")
    e = {}
    for evaluation in method.evaluations(progress):
        time = t_plus if evaluation.shifted else t
        alpha, sigma = PRIOR.alpha_sigma(time)
        cond = PRIOR.embed([texts[evaluation.prompt]] * len(x))
        e[evaluation] = PRIOR.predict_noise(alpha * x + sigma * eps, time, cond)
    w = weight("sds", *PRIOR.alpha_sigma(t))
    return process(method.gradient(e, eps, w, progress, t.view(-1, 1, 1, 1) / PRIOR.T), GradientSettings(), progress)


def pairs(count: int, seed: int = 0) -> Tensor:
    eps = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return torch.cat([eps, -eps])


@pytest.mark.parametrize("name", SETTINGS)
def test_expected_gradient_is_the_closed_form(name: str) -> None:
    x = means(1, seed=8)[0]
    G = latent_gradient(name, x.expand(8, *SHAPE), pairs(4)).mean(0)
    k, r = line(name, T_FIXED)
    w = float(1 - alphas_cumprod()[T_FIXED])
    torch.testing.assert_close(G.double(), w * (k * x.double() - r), rtol=1e-4, atol=1e-5)


def test_expected_sds_gradient_points_from_the_mode_to_the_sample() -> None:
    x = means(1, seed=9)[0]
    prior = GaussianPrior({"a cube": MU_Y}, 0.2)
    eps = pairs(4)
    t = torch.full((8,), T_FIXED)
    alpha, sigma = prior.alpha_sigma(t)
    cond = prior.embed(["a cube"] * 8)
    e_y = prior.predict_noise(alpha * x + sigma * eps, t, cond)
    G = (e_y - eps).mean(0)
    assert torch.nn.functional.cosine_similarity(G.flatten(), (x - MU_Y).flatten(), dim=0) > 1 - 1e-5
    at_mode = (prior.predict_noise(alpha * MU_Y + sigma * eps, t, cond) - eps).mean(0)
    assert at_mode.abs().max() < 1e-6


@pytest.mark.parametrize("name", SETTINGS)
def test_distillation_moves_samples_to_where_the_method_rests_near_the_mode(name: str) -> None:
    x = (MU_Y + 1.5).expand(2, *SHAPE).clone().requires_grad_()
    optimizer = torch.optim.SGD([x], lr=1.0)
    for step in range(200):
        eps = pairs(1, seed=step)
        optimizer.zero_grad()
        paired = x.repeat(2, 1, 1, 1)
        surrogate_loss(paired, latent_gradient(name, paired, eps.repeat_interleave(2, 0))).backward()
        optimizer.step()
    k, r = line(name, T_FIXED)
    rest = r / k
    assert k > 0
    torch.testing.assert_close(x.detach().double(), rest.expand(2, *SHAPE), rtol=0, atol=2e-3)
    assert (rest - MU_Y).abs().max() < 0.3 < 1.5


def test_sds_finds_the_nearest_of_two_modes() -> None:
    modes = torch.stack([torch.full(SHAPE, -1.0), torch.full(SHAPE, 1.0)])
    prior = GaussianPrior({"a cube": modes}, 0.1)
    x = torch.tensor([-0.4, 0.3]).reshape(2, 1, 1, 1).expand(2, *SHAPE).clone().requires_grad_()
    method = create("SDS", SDSSettings(guidance=1.0))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([x], lr=0.03)
    for _ in range(150):
        t = torch.randint(20, 200, (2,), generator=generator)
        eps = torch.randn(2, *SHAPE, generator=generator)
        alpha, sigma = prior.alpha_sigma(t)
        e = {
            v: prior.predict_noise(alpha * x + sigma * eps, t, prior.embed(["a cube"] * 2))
            for v in method.evaluations(0)
        }
        optimizer.zero_grad()
        surrogate_loss(x, method.gradient(e, eps, weight("sds", alpha, sigma), 0.0)).backward()
        optimizer.step()
    torch.testing.assert_close(x.detach().mean((1, 2, 3)), torch.tensor([-1.0, 1.0]), rtol=0, atol=0.1)
