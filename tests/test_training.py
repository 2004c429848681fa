"""One student's training: which weights it ends with, its learning rate, the embedding rows it trains."""

import gc
import shutil
import weakref
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import PAIRS
from conftest import weights as weights_of
from transformers import AutoTokenizer, XLMConfig, XLMModel

from transenc.checkpoint import Checkpoint
from transenc.data.module import PairDataModule
from transenc.data.tokens import number_sentences, tokenise
from transenc.encoders import BiEncoder, CrossEncoder, OptimizerConfig
from transenc.encoders.loading import saved_tokenizer
from transenc.encoders.used_rows import UsedRows, train_used_rows
from transenc.errors import InputError
from transenc.training import TrainingCallback, TrainingFailed, check_collapse, train

LABELS = np.linspace(0, 1, len(PAIRS), dtype=np.float32)


def tokens_of(encoder, pairs=PAIRS):
    sentences, numbers = number_sentences(pairs)
    return tokenise(sentences, numbers, encoder.tokenizer)


def train_on(encoder, selection=None, epochs=3, eval_steps=0, checkpoint=None, progress=lambda count: None, **learning):
    encoder.optimizer_config = OptimizerConfig(
        **({"loss": "mse", "learning_rate": 1e-2, "warmup": 0.0, "weight_decay": 0.0} | learning)
    )
    datamodule = PairDataModule(
        tokens_of(encoder), LABELS, encoder.collate, batch_size=3, both_orders=False, seed=0
    )  # 3 steps an epoch
    return train(
        encoder, datamodule, epochs=epochs, clip=1.0, accelerator="cpu", precision="32-true", seed=0,
        selection=selection, eval_steps=eval_steps, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip


def weights(encoder):
    return {name: weight.clone() for name, weight in encoder.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_best_checkpoint_by_selection_is_kept_and_the_earliest_of_equals(bert):
    seen, scores = [], iter([0.5, 0.9, 0.9])

    def selection(encoder):
        seen.append(weights(encoder))
        return next(scores)

    encoder = BiEncoder.load(bert)
    result = train_on(encoder, selection)
    assert (result.best, result.step) == (0.9, 6)
    final = weights(encoder)
    layer = "backbone.encoder.layer.0.output.dense.weight"
    assert torch.equal(final[layer], seen[1][layer])
    assert not torch.equal(final[layer], seen[2][layer])
    assert not encoder.training


def test_without_selection_the_last_weights_are_kept(bert):
    encoder, start = BiEncoder.load(bert), weights(BiEncoder.load(bert))
    result = train_on(encoder)
    assert (result.best, result.step) == (None, 9)
    assert not same(weights(encoder), start)


def test_selection_scores_are_taken_at_eval_steps_and_at_each_epochs_end(bert):
    result = train_on(BiEncoder.load(bert), lambda encoder: 0.0, eval_steps=2)
    assert [row["step"] for row in result.curve if "selection" in row] == [2, 3, 4, 6, 8, 9]


def test_a_selection_score_sees_the_student_without_dropout_and_with_its_trained_embeddings(bert):
    encoder = BiEncoder.load(bert)
    seen = []
    train_on(
        encoder, lambda student: seen.append(student.similarities(tokens_of(student))) or float(len(seen)), epochs=1
    )
    np.testing.assert_allclose(seen[-1], encoder.similarities(tokens_of(encoder)), atol=1e-6)


def test_the_learning_rate_rises_over_the_warmup_and_falls_to_nothing(bert):
    result = train_on(BiEncoder.load(bert), epochs=4, warmup=0.25)  # 12 steps, 3 of them rising
    rates = [row["learning_rate"] / 1e-2 for row in result.curve if "loss" in row]
    np.testing.assert_allclose(rates, [1 / 4, 2 / 4, 3 / 4, *(k / 9 for k in range(9, 0, -1))], rtol=1e-6)


def test_training_learns_the_labels(bert):
    torch.manual_seed(0)
    encoder = CrossEncoder.load(bert, new_head=0)
    result = train_on(encoder, epochs=30, loss="bce", learning_rate=3e-3)
    losses = [row["loss"] for row in result.curve]
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.05


def test_inside_a_slurm_job_of_several_tasks_one_process_trains_by_itself(bert, monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "mine", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    assert train_on(BiEncoder.load(bert)).step == 9


@pytest.mark.parametrize("fails", [False, True])
def test_memory_holds_a_trained_student_no_longer_than_someone_refers_to_it(bert, fails):
    def fail(count):
        raise TrainingFailed("the loss is nan", "nan")

    gc.disable()  # as in a command, where full collections are rare
    try:
        student = BiEncoder.load(bert, pooling="cls")
        if fails:
            with suppress(TrainingFailed):
                train_on(student, progress=fail)
        else:
            train_on(student)
        found = [weakref.ref(student), weakref.ref(student.backbone.encoder)]
        del student
        assert [one() for one in found] == [None, None]
    finally:
        gc.enable()


def test_biases_and_normalisation_weights_do_not_decay(bert):
    encoder = BiEncoder.load(bert)
    encoder.optimizer_config = OptimizerConfig("mse", 1e-3, 0.0, 0.5)
    decaying, others = encoder.configure_optimizers()["optimizer"].param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert {p.ndim for p in others["params"]} == {1}
    assert len(decaying["params"]) + len(others["params"]) == len(list(encoder.parameters()))


@pytest.mark.parametrize(("clip", "factor"), [(2.0, 0.4), (5.0, 1.0), (None, 1.0)], ids=["longer", "as long", "off"])
def test_gradients_longer_than_the_limit_are_scaled_to_it_and_others_stay_as_they_are(bert, clip, factor):
    encoder = BiEncoder.load(bert)
    for number, weight in enumerate(encoder.parameters()):
        weight.grad = torch.zeros_like(weight)
        if number < 2:
            weight.grad.view(-1)[0] = (3.0, 4.0)[number]  # a norm of 5 over all weights
    encoder.configure_gradient_clipping(None, clip)
    found = [weight.grad.sum().item() for weight in encoder.parameters()]
    assert found[:2] == pytest.approx([3 * factor, 4 * factor], rel=1e-5)
    assert not any(found[2:])


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_training_the_used_rows_alone_gives_them_the_gradients_of_the_whole_table(models, family):
    full, held = BiEncoder.load(models[family]), BiEncoder.load(models[family])
    pairs = [("the dog", "a cat")]
    inputs = full.collate(tokens_of(full, pairs), np.arange(1), np.zeros(1, dtype=bool))
    for encoder in (full, held):
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    full.eval()(inputs).sum().backward()
    table = held.backbone.get_input_embeddings()
    before = table.weight.detach().clone()
    with train_used_rows(held, tokens_of(held, pairs)):
        rows = held.backbone.get_input_embeddings()
        rows.train()  # dropout stays off: only the embedding is in training mode
        held(inputs).sum().backward()
        used = rows.used
        torch.testing.assert_close(rows.rows.grad, full.backbone.get_input_embeddings().weight.grad[used])
        with torch.no_grad():
            rows.rows += 1
    unused = [i for i in range(len(before)) if i not in set(used.tolist())]
    assert held.backbone.get_input_embeddings() is table
    torch.testing.assert_close(table.weight[used], before[used] + 1)
    assert torch.equal(table.weight[unused], before[unused])


def test_segments_that_a_model_looks_up_among_its_words_are_trained_with_them(models, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(models["bert"])
    tokenizer.save_pretrained(tmp_path)
    XLMModel(XLMConfig(vocab_size=len(tokenizer), emb_dim=32, n_layers=1, n_heads=2)).save_pretrained(tmp_path)
    encoder = CrossEncoder.load(tmp_path, new_head=0)
    tokens = tokens_of(encoder, [("dog", "cat")])
    with train_used_rows(encoder, tokens):
        encoder.train()(encoder.collate(tokens, np.arange(1), np.zeros(1, dtype=bool))).sum().backward()
    encoder.save(tmp_path / "saved")
    assert len(saved_tokenizer(tmp_path / "saved")) == len(tokenizer)  # config.json calls the size n_words


def test_a_padding_row_that_no_pair_uses_freezes_no_other():
    table = torch.nn.Embedding(5, 2, padding_idx=0)
    rows = UsedRows(table, np.array([1, 4])).train()
    rows(torch.tensor([[1, 4]])).sum().backward()
    assert rows.rows.grad.tolist() == [[1, 1], [1, 1]]


class Stopped(BaseException):
    pass


def raise_stopped(*_):
    raise Stopped


def stop_after(steps):
    left = iter(range(steps, -1, -1))

    def progress(count):
        for _ in range(count):
            if next(left) == 0:
                raise Stopped

    return progress


@pytest.mark.parametrize(
    "stops",
    [[8], [1, 1, 4], *(pytest.param(s, marks=pytest.mark.slow) for s in ([1], [2], [3], [4], [6], [2, 2, 2, 2]))],
    ids=str,
)
@pytest.mark.parametrize("every", [0.0, 1e9], ids=["each step", "each epoch"])
@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_an_interrupted_training_resumes_and_ends_in_the_same_bytes(bert, tmp_path, monkeypatch, stops, every, kind):
    """The same batches, dropout, learning rates, curve and best weights, wherever it stopped."""
    monkeypatch.setattr("transenc.training.INTERVAL_SECONDS", every)
    load = {"bi": BiEncoder.load, "cross": lambda folder: CrossEncoder.load(folder, new_head=0)}[kind]
    selection = lambda encoder: float(encoder.predict(PAIRS[:1])[0])  # noqa: E731
    uninterrupted = load(bert)
    expected = train_on(uninterrupted, selection, eval_steps=2)
    for stop in stops:
        torch.manual_seed(stop)  # another process
        with pytest.raises(Stopped):
            train_on(load(bert), selection, eval_steps=2, checkpoint=Checkpoint(tmp_path), progress=stop_after(stop))
    torch.manual_seed(99)
    resumed = load(bert)
    steps = []
    result = train_on(resumed, selection, eval_steps=2, checkpoint=Checkpoint(tmp_path), progress=steps.append)
    assert same(weights(resumed), weights(uninterrupted))
    assert result == expected
    assert sum(steps) == 9
    if every == 0 and stops == [8]:
        assert steps[0] == 8  # it stopped in the ninth


def test_an_interruption_after_the_last_step_costs_no_training(setting, monkeypatch):
    monkeypatch.setattr("transenc.training.INTERVAL_SECONDS", 0.0)
    whole, steps, ended = setting.run("distill.failure=ignore", name="whole"), [], TrainingCallback.on_train_batch_end
    shutil.rmtree(setting.root / "artifacts")

    def counted(*arguments):
        steps.append(1)
        ended(*arguments)

    monkeypatch.setattr(TrainingCallback, "on_train_batch_end", counted)
    with monkeypatch.context() as interrupted:
        interrupted.setattr("transenc.stages.training.model_facts", raise_stopped)
        for expected in (range(2, 99), [1]):  # the last step has no checkpoint
            steps.clear()
            with pytest.raises(Stopped):
                setting.run("distill.failure=ignore")
            assert len(steps) in expected
    assert weights_of(setting.run("distill.failure=ignore")) == weights_of(whole)
    assert not list((setting.root / "artifacts").rglob("*.checkpoint"))


def test_a_damaged_checkpoint_is_ignored_and_training_begins_anew(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("transenc.training.INTERVAL_SECONDS", 0.0)
    uninterrupted = BiEncoder.load(bert)
    train_on(uninterrupted)
    with pytest.raises(Stopped):
        train_on(BiEncoder.load(bert), checkpoint=Checkpoint(tmp_path), progress=stop_after(5))
    (path,) = tmp_path.glob("*.checkpoint")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    resumed, steps = BiEncoder.load(bert), []
    train_on(resumed, checkpoint=Checkpoint(tmp_path), progress=steps.append)
    assert steps == [1] * 9
    assert same(weights(resumed), weights(uninterrupted))


def test_a_nan_loss_fails_the_training(bert, tmp_path):
    with pytest.raises(TrainingFailed, match=r"the loss is nan at step \d+, learning rate 9") as failed:
        train_on(CrossEncoder.load(bert, new_head=0), epochs=9, checkpoint=Checkpoint(tmp_path), learning_rate=1e30)
    assert failed.value.cause == "nan"


@pytest.mark.parametrize(
    ("micro_batch", "says"),
    [
        (None, r"^a batch of 3 .* set distill.cross.micro_batch_size below 3, .* model.cross_max_tokens"),
        (2, r"^a batch of 2 .* set distill.cross.micro_batch_size below 2, .* model.cross_max_tokens"),
        (1, r"^a batch of 1 does not fit into the GPU's memory at step 0; lower model.cross_max_tokens"),
    ],
)
def test_a_batch_that_memory_does_not_hold_names_what_to_lower(bert, monkeypatch, micro_batch, says):
    student = CrossEncoder.load(bert, new_head=0)
    student.micro_batch = micro_batch

    def short_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(student, "training_step", short_of_memory)
    with pytest.raises(InputError, match=says):
        train_on(student)


WANTED = np.linspace(0, 1, 200)


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (
            0.5 + 0.04 * WANTED,
            "it collapsed: the standard deviation of its scores is 0.0116 on 200 of its",
        ),
        (np.full(200, 0.7), "it collapsed: the standard deviation of its scores is 0 on 200"),
        (1 - WANTED, "it learnt nothing: Spearman with its labels is -1.00 on 200 of its training pairs"),
        (np.where(WANTED < 0.9, WANTED, np.nan), "its scores are NaN or infinite"),
    ],
)
def test_a_collapsed_student_is_recognised_by_its_scores(scores, says):
    with pytest.raises(TrainingFailed, match=says):
        check_collapse(scores, WANTED, 300, 2e-5)


def test_a_student_that_agrees_with_its_labels_passes_and_few_pairs_are_no_evidence():
    noise = np.random.default_rng(0).normal(0, 0.5, 200)
    check_collapse(WANTED + noise, WANTED, 300, 2e-5)
    check_collapse(0.4 + 0.06 * WANTED, WANTED, 300, 2e-5)
    check_collapse(1 - WANTED[:99], WANTED[:99], 300, 2e-5)


@pytest.mark.parametrize(
    ("steps", "rate", "cause", "says"),
    [
        (34, 2e-5, "few steps", "it had 34 steps, and needs 150 or more"),
        (34, 1e-2, "few steps", "it had 34 steps"),
        (300, 1e-6, "low rate", "the learning rate of 1e-06 is too low for 300 steps"),
        (300, 1e-3, "high rate", "the learning rate of 0.001 is high for an encoder"),
        (300, 2e-5, "chance", r"below 0.05 of its labels' 0.29$"),
    ],
)
def test_a_collapse_is_reported_with_its_cause(steps, rate, cause, says):
    with pytest.raises(TrainingFailed, match=says) as failed:
        check_collapse(np.full(200, 0.7), WANTED, steps, rate)
    assert failed.value.cause == cause
