"""Shared prompts: a packed row gives what sequence by sequence gives, log-probabilities, losses and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.learner import PolicyLearner
from llmenv.policy import packed as packed_module
from llmenv.policy import policy as policy_module
from llmenv.policy.attention import Span, _Plan
from llmenv.policy.batch import LossBatch, TokenBatch, TokenRow
from llmenv.policy.flex import in_one_kernel
from llmenv.policy.packed import PackedRow
from llmenv.policy.plan import plan_update
from llmenv.policy.policy import CausalPolicy
from small_models import ARCHITECTURES, LLAMA, VOCAB, make_model, make_row, random_rows
from support import relative_gap, small_config

ROWS: dict[str, Callable[[], list[TokenRow]]] = {
    "several groups, two turns": random_rows,
    "one-token responses": lambda: [make_row([1, 2, 3], [token]) for token in (4, 5, 6)],
    "a single row": lambda: [make_row([1, 2, 3], [4, 5, 6, 7])],
    "groups of one": lambda: [make_row([1, 2, 3][:n], [4, 5], group=n) for n in (1, 2, 3)],
    "groups in turns": lambda: [make_row([7, n % 2, 3], [4, 5 + n, 6], group=n % 2) for n in range(4)],
    "prompts that part": lambda: [make_row([1, 2, 3, 4], [5, 6]), make_row([1, 2, 7, 8, 9], [5])],
    "prompts with nothing in common": lambda: [make_row([1, 2], [5, 6]), make_row([3, 2, 1], [5, 7, 8])],
    "prompts of which one begins the other": lambda: [make_row([1, 2], [3, 4]), make_row([1, 2, 3], [4])],
    "the same response twice": lambda: [make_row([1, 2], [3, 4]), make_row([1, 2], [3, 4])],
    "three turns": lambda: [
        make_row([1, 2], [3], 0, [4, 5], [6, 7], [8], [9]),
        make_row([1, 2], [3, 9], 0, [4], [6]),
    ],
    "no response at all": lambda: [make_row([0, 0], [])],
}


def make_policies(model: Any, temperature: float = 0.7) -> tuple[CausalPolicy, CausalPolicy]:
    """The plain policy and the packed one, of the same weights."""
    plain = CausalPolicy(copy.deepcopy(model), temperature, shared_prompts=False)
    packed = CausalPolicy(model, temperature)
    assert packed.shared_prompts
    return plain, packed


def gradients(policy: CausalPolicy) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad])


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_plain_policy(architecture: str, rows: str) -> None:
    batch = TokenBatch.from_rows(ROWS[rows]())
    plain, packed = make_policies(make_model(*ARCHITECTURES[architecture]))
    outputs = [policy(batch) for policy in (plain, packed)]
    torch.testing.assert_close(outputs[1].logps, outputs[0].logps, atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(outputs[1].entropy, outputs[0].entropy, atol=1e-9, rtol=1e-6)
    for output in outputs:
        (output.logps * batch.sampling_logps).sum().backward()
    if rows == "no response at all":
        assert not gradients(packed).any()
    else:
        assert outputs[0].logps[batch.response_mask].abs().min() > 1e-3
        assert relative_gap(gradients(packed), gradients(plain)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_long_sequences_in_every_precision(dtype: torch.dtype) -> None:
    """The kernel takes 512 keys and 256 queries at a time; 759 tokens are filled up to 799."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(VOCAB, size=600).tolist()
    rows = [make_row(prompt, rng.integers(VOCAB, size=size).tolist()) for size in (1, 40, 760, 800)]
    batch = TokenBatch.from_rows(rows)
    model = make_model("llama", LLAMA, dtype)
    exact, _ = make_policies(copy.deepcopy(model).double())
    results = []
    for policy in (exact, *make_policies(model)):
        logps = policy(batch).logps
        (logps * batch.sampling_logps).sum().backward()
        results.append((logps.detach(), gradients(policy)))
    for expected, plain, packed in zip(*results, strict=True):
        limit = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
        assert relative_gap(packed.double(), expected) < limit
        if dtype != torch.float64:  # it may be as far off as the plain way is
            assert relative_gap(packed.double(), expected) < 2 * relative_gap(plain.double(), expected)


@pytest.mark.usefixtures("flex_attention_on_a_cpu")
@pytest.mark.parametrize("rows", ROWS)
def test_flex_attention_equals_the_plain_policy(rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, on a row that is filled up."""
    cpu, pack = torch.device("cpu"), PackedRow.from_columns
    monkeypatch.setattr(packed_module, "in_blocks", lambda spans: in_one_kernel(spans, cpu))
    monkeypatch.setattr(PackedRow, "from_columns", lambda *columns: pack(*columns).filled_up())
    test_equals_the_plain_policy("grouped queries, tied", rows)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", ["several groups, two turns", "a single row"])
def test_flex_attentions_kernels_equal_the_plain_policy(rows: str) -> None:
    # Its kernels want heads of 16 or more.
    batch = TokenBatch.from_rows(ROWS[rows]()).to(torch.device("cuda"))
    model = make_model("llama", {**LLAMA, "hidden_size": 64, "head_dim": 16}, torch.float32).cuda()
    plain, packed = make_policies(model)
    for policy in (plain, packed):
        (policy(batch).logps * batch.sampling_logps).sum().backward()
    # Triton's matrix products round to TF32.
    assert relative_gap(gradients(packed), gradients(plain)) < 1e-2


class LossOnly:
    """What `compute_loss_for_module` asks of a learner."""

    kl_coeff = 0.1
    policy_loss = PolicyLearner.policy_loss

    def log_share(self, **shares: torch.Tensor) -> None:
        pass


def grpo_update(
    policy: CausalPolicy, reference: CausalPolicy | None, batches: Sequence[TokenBatch], num_tokens: int
) -> tuple[float, torch.Tensor]:
    """The loss and its gradient, by GRPO's own function, with ratios that are clipped here and there."""
    config = small_config("tiny", kl_coeff=0.1, clip_param=0.1, tis_cap=2.0)
    total = 0.0
    for batch in batches:
        output = policy(batch)
        loss = PolicyLearner.compute_loss_for_module(
            LossOnly(),
            module_id="",
            config=config,
            batch=LossBatch(
                tokens=batch,
                old_logps=output.logps.detach() + 0.1 * batch.sampling_logps,
                ref_logps=reference(batch).logps.detach() if reference else None,
                num_tokens=num_tokens,
                num_sequences=1,
                num_learned_tokens=num_tokens,
            ),
            fwd_out=output,
        )
        loss.backward()
        total += loss.item()
    return total, gradients(policy)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("with_kl", [False, True])
# The groups take 80, 58 and 56 tokens. A completion at a time; parts of a group; a group; two of them; all three.
@pytest.mark.parametrize(
    ("budget", "sizes"),
    [(1, [1] * 12), (40, [1, 2, 3, 1, 3, 1, 1]), (90, [4, 4, 4]), (130, [4, 8]), (1000, [12])],
)
def test_grpo_loss_for_any_budget(budget: int, sizes: list[int], with_kl: bool, dtype: torch.dtype) -> None:
    rows = random_rows()
    ((minibatch,),) = plan_update(
        rows, minibatch_size=12, micro_batch_tokens=budget, num_learners=1, rng=np.random.default_rng(0)
    )
    assert [len(batch) for batch in minibatch.micro_batches] == sizes
    kind = ARCHITECTURES["grouped queries, tied"]
    policies = make_policies(make_model(*kind, dtype))
    references = make_policies(make_model(*kind, dtype, seed=1)) if with_kl else (None, None)
    whole = [TokenBatch.from_rows(rows)]
    expected_loss, expected = grpo_update(policies[0], references[0], whole, minibatch.num_tokens)
    loss, gradient = grpo_update(policies[1], references[1], minibatch.micro_batches, minibatch.num_tokens)
    limit = {torch.float64: 1e-6, torch.float32: 1e-4}[dtype]
    assert loss == pytest.approx(expected_loss, rel=limit)
    assert relative_gap(gradient, expected) < limit


def test_a_packed_row_worked_out_by_hand() -> None:
    rows = [
        make_row([5, 6, 7], [8, 9]),
        make_row([5, 6, 7], [4], 0, [3], [2]),
        make_row([1, 2], [3], group=1),
    ]
    packed = TokenBatch.from_rows(rows).packed
    # The last token of each sequence predicts nothing, and is left out.
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 4, 3, 1, 2]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 3, 4, 0, 1]]
    # 8 and 9; 4 and, behind the second prompt, 2; 3.
    assert packed.predicting.tolist() == [2, 3, 2, 5, 7]
    # The first prompt, and what follows it in the two sequences; the second prompt.
    assert packed.spans == [(0, 3, 0), (3, 4, 0), (4, 6, 0), (6, 8, 3)]


def test_a_packed_row_whose_groups_stand_in_turns() -> None:
    rows = [make_row([5, 6], [8, 9], 1), make_row([1, 2, 3], [4], 0), make_row([5, 6], [4, 7, 3], 1)]
    packed = TokenBatch.from_rows(rows).packed
    assert packed.input_ids.tolist() == [[1, 2, 3, 5, 6, 8, 4, 7]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 2, 3]]
    assert packed.predicting.tolist() == [4, 5, 2, 4, 6, 7]
    assert packed.spans == [(0, 3, 0), (3, 5, 1), (5, 6, 1), (6, 8, 1)]


def test_a_row_filled_up_has_a_size_that_attention_is_compiled_for() -> None:
    packed = TokenBatch.from_rows([make_row([5, 6], [8, 9])]).packed
    filled = packed.filled_up()
    assert filled.input_ids.tolist() == [[5, 6, 8] + [0] * 381]
    assert filled.position_ids.tolist() == [[0, 1, 2] + [0] * 381]
    assert filled.spans == [(0, 2, 0), (2, 3, 0), (3, 384, 2)]
    assert filled.predicting is packed.predicting
    assert filled.filled_up() is filled


def logps_of(rows: Sequence[TokenRow], policy: CausalPolicy) -> torch.Tensor:
    with torch.no_grad():
        return policy(TokenBatch.from_rows(rows)).logps


@pytest.fixture
def policy() -> CausalPolicy:
    return CausalPolicy(make_model(*ARCHITECTURES["grouped queries, tied"]))


def test_a_completion_sees_its_prompt_and_no_other_completion(policy: CausalPolicy) -> None:
    def rows(prompt: int = 1, other: int = 8) -> list[TokenRow]:
        return [make_row([prompt, 2, 3], [4, 5, 6]), make_row([prompt, 2, 3], [other, 9, 7])]

    before = logps_of(rows(), policy)
    other = logps_of(rows(other=11), policy)
    assert torch.equal(other[0], before[0])
    assert (other[1, 3:] != before[1, 3:]).all()
    assert ((logps_of(rows(prompt=12), policy) - before)[:, 3:].abs() > 1e-6).all()


def test_no_token_sees_what_comes_after_it(policy: CausalPolicy) -> None:
    before = logps_of([make_row([1, 2], [3, 4, 5, 6])], policy)[0]
    after = logps_of([make_row([1, 2], [3, 4, 5, 7])], policy)[0]
    assert torch.equal(before[:5], after[:5])
    assert before[5] != after[5]


def test_the_comparison_notices_completions_without_their_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers itself would read positions that start anew."""
    right = _Plan.of
    removed: list[Any] = []

    def without_the_prompt(spans: Sequence[Span]) -> Any:
        plan = right(spans)
        removed.extend(plan.shared)
        plan.shared.clear()
        return plan

    monkeypatch.setattr(_Plan, "of", without_the_prompt)
    # The trial at build notices it too, and would go without.
    assert "something else" in str(CausalPolicy(make_model(*ARCHITECTURES["untied"])).why_not_shared)
    monkeypatch.setattr(policy_module, "why_not_in_fact", lambda model: None)
    with pytest.raises(AssertionError, match="not close"):
        test_equals_the_plain_policy("grouped queries, tied", "several groups, two turns")
    assert removed


def test_the_comparison_notices_completions_that_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another attention function, which takes the row for one sequence, would have it."""
    policy_init = CausalPolicy.__init__

    def with_another_attention(self: CausalPolicy, model: Any, *args: Any, **kwargs: Any) -> None:
        policy_init(self, model, *args, **kwargs)
        model.set_attn_implementation("sdpa")

    monkeypatch.setattr(CausalPolicy, "__init__", with_another_attention)
    with pytest.raises(AssertionError, match="not close"):
        test_equals_the_plain_policy("grouped queries, tied", "several groups, two turns")


@pytest.mark.parametrize("architecture", ["grouped queries, tied", "learned positions, Conv1D"])
def test_adapters_learn_the_same(architecture: str) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = make_model(*ARCHITECTURES[architecture])
    settings = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    peft.inject_adapter_in_model(settings, model)
    batch = TokenBatch.from_rows(random_rows())
    plain, packed = make_policies(model.double())
    for policy in (plain, packed):
        (policy(batch).logps * batch.advantages).sum().backward()
    learned = {name for name, p in packed.named_parameters() if p.grad is not None}
    assert learned
    assert all("lora_" in name for name in learned)
    assert relative_gap(gradients(packed), gradients(plain)) < 1e-6


def test_the_head_is_the_models_own_and_is_called_once(policy: CausalPolicy) -> None:
    calls: list[int] = []
    policy.head.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    batch = TokenBatch.from_rows(random_rows())
    policy(batch)
    assert calls == [int(batch.response_mask.sum())]
    assert policy.head.weight is policy.model.model.embed_tokens.weight
    assert [name for name, _ in policy.named_parameters()] == [
        f"model.{name}" for name, _ in policy.model.named_parameters()
    ]


def test_only_the_tokens_that_exist_go_through_the_model(policy: CausalPolicy) -> None:
    shapes: list[Any] = []
    policy.model.model.layers[0].mlp.register_forward_hook(lambda m, i, output: shapes.append(output.shape))
    policy(TokenBatch.from_rows([make_row([1] * 10, [2] * n) for n in (1, 3, 6)]))
    assert shapes == [(1, 10 + 0 + 2 + 5, 16)]
